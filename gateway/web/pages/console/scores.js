// Scores before and after, with the interval of what changed.

import { short } from "./chart.js";
import { Badge, html, number, plural } from "./ui.js";

/** What the run came to, and how sure that is. */
export function Difference({ run }) {
  const { metric, before, after, difference, better } = run;
  const gain = difference ? difference.mean : after - before;
  const good = better === "lower" ? gain < 0 : gain > 0;
  const sure = difference && (difference.low > 0 || difference.high < 0);
  return html`<section class="card result" aria-label="Result">
    <div><p class="hint">${metric} on what was held out</p><p class="big number"><span class="muted">${short(before)}</span> <span aria-hidden="true">→</span><span class="sr"> before, after: </span> <b>${short(after)}</b></p></div>
    <div><p class="hint">Change</p><p class="big number"><b class=${good ? "up" : "down"}>${signed(gain)}</b></p></div>
    ${difference && html`<div class="interval-box"><p class="hint">95% interval, by resampling the questions</p><${Interval} of=${difference} /><p class="row between"><span class="number">${signed(difference.low)} to ${signed(difference.high)}</span>${
      sure ? html`<${Badge} tone=${good ? "good" : "bad"}>${good ? "better" : "worse"}, not by chance<//>` : html`<${Badge} tone="warn">may be chance<//>`
    }</p></div>`}</section>`;
}

/** The interval on a line with zero on it. */
function Interval({ of }) {
  const low = Math.min(0, of.low);
  const high = Math.max(0, of.high);
  const room = high - low || 1;
  const at = (value) => 4 + ((value - low) / room) * 192;
  return html`<svg class="interval" viewBox="0 0 200 22" preserveAspectRatio="none" aria-hidden="true"><line class="base" x1="0" x2="200" y1="11" y2="11" /><line class="zero" x1=${at(0)} x2=${at(0)} y1="2" y2="20" />
    <line class="span" x1=${at(of.low)} x2=${at(of.high)} y1="11" y2="11" /><line class="mean" x1=${at(of.mean)} x2=${at(of.mean)} y1="4" y2="18" /></svg>`;
}

export function Scores({ scores, judged }) {
  const { questions, documents } = scores;
  const among = questions ? `${plural(questions, "question")}${documents ? ` among ${number(documents)} documents` : ""}` : "";
  return html`<section class="card stack" aria-labelledby="scores"><div class="row between"><h2 id="scores">Before and after</h2><span class="hint">${among}</span></div>
    <div class="scroller" tabindex="0" role="region" aria-label="Scores"><table class="dense"><thead><tr><th scope="col">Metric</th><th scope="col" class="right">Before</th><th scope="col" class="right">After</th><th scope="col" class="right">Change</th><th scope="col" class="bar-cell"><span class="sr">Drawn</span></th></tr></thead><tbody>
      ${scores.metrics.map((each) => html`<tr key=${each.name} class=${each.name === judged ? "judged" : ""}><th scope="row">${each.name}${each.name === judged ? html` <span class="hint">judged by</span>` : ""}</th><td class="right number">${short(each.before)}</td><td class="right number"><b>${short(each.after)}</b></td>
        <td class=${`right number ${tone(each)}`}>${signed(each.after - each.before)}</td><td class="bar-cell"><${Dumbbell} of=${each} /></td></tr>`)}
    </tbody></table></div></section>`;
}

const tone = ({ before, after, better }) => (after === before ? "" : after > before === (better === "higher") ? "up" : "down");

function Dumbbell({ of }) {
  const most = Math.max(1, of.before, of.after);
  const at = (value) => 5 + (Math.max(0, value) / most) * 190;
  return html`<svg class="dumbbell" viewBox="0 0 200 12" aria-hidden="true"><line class="base" x1="5" x2="195" y1="6" y2="6" /><line class=${`span ${tone(of)}`} x1=${at(of.before)} x2=${at(of.after)} y1="6" y2="6" /><circle class="from" cx=${at(of.before)} cy="6" r="4" /><circle class=${`to ${tone(of)}`} cx=${at(of.after)} cy="6" r="4.5" /></svg>`;
}

/** The questions that moved most, either way. */
export function Moves({ scores }) {
  const { gained, lost } = scores;
  if (!gained.length && !lost.length) return null;
  return html`<section class="charts two" aria-label="Questions that moved">${[["Found now", gained], ["Lost", lost]].map(
    ([title, moves]) => html`<div class="card stack" key=${title}><h2>${title}</h2>${
      moves.length
        ? html`<ol class="moves">${moves.map((move, place) => html`<li key=${place}><p>${move.query}</p><p class="hint"><span class="number">rank ${number(move.before)} → <b>${number(move.after)}</b></span>${move.answer ? html` · ${move.answer}` : ""}</p></li>`)}</ol>`
        : html`<p class="muted">None.</p>`
    }</div>`,
  )}</section>`;
}

export function signed(value) {
  return `${value > 0 ? "+" : value < 0 ? "−" : ""}${short(Math.abs(value))}`;
}
