"""How the report looks: light and dark as the reader's system has it, one column on a phone."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root{--back:#f6f7f9;--card:#fff;--text:#1c2430;--quiet:#667085;--line:#e3e6eb;--main:#2467d1;--second:#c2571a;
--third:#2d8a5f;--before:#a9b4c4;--raw:#b9cdf0;--good:#1c7c4c;--bad:#b3372c;--goodback:#e3f3ea;--badback:#fae6e4;
--plainback:#eceff3}
@media(prefers-color-scheme:dark){:root{--back:#12161c;--card:#1a2029;--text:#e4e8ee;--quiet:#97a3b4;--line:#2c3440;
--main:#72a7f7;--second:#f0995c;--third:#63c596;--before:#5a677a;--raw:#33507f;--good:#6fd09d;--bad:#f08a80;
--goodback:#17352a;--badback:#3d2222;--plainback:#28303b}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 16px 48px}
h1{font-size:24px;line-height:1.25;margin:0 0 12px;overflow-wrap:anywhere}
h2{font-size:17px;margin:32px 0 10px}
h3{font-size:14px;margin:0 0 8px;font-weight:600}
.state{font-size:13px;font-weight:600;padding:3px 10px;border-radius:99px;background:var(--plainback);
color:var(--quiet);vertical-align:4px;white-space:nowrap}
.state.completed{background:var(--goodback);color:var(--good)}
.state.failed{background:var(--badback);color:var(--bad)}
.state.running,.state.training,.state.queued{color:var(--main)}
.headline{font-size:22px;margin:0 0 16px}
.headline span{color:var(--quiet)}
.headline em{font-style:normal;font-weight:600;color:var(--quiet)}
.headline.gain em{color:var(--good)}
.headline.loss em{color:var(--bad)}
.headline small{display:block;font-size:14px;color:var(--quiet)}
.error{background:var(--badback);color:var(--bad);padding:8px 12px;border-radius:8px;overflow-wrap:anywhere}
dl{display:flex;flex-wrap:wrap;gap:10px 32px;margin:0}
dt{font-size:12px;color:var(--quiet)}
dd{margin:0;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:16px}
.wide{display:grid;grid-template-columns:minmax(0,1fr);gap:16px}
article{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;min-width:0}
svg{display:block;width:100%;height:auto;max-width:560px;margin:0 auto}
svg text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;fill:var(--quiet)}
svg text.name{fill:var(--text)}
svg text.value{font-size:11px;fill:var(--text)}
svg text.value.on{fill:var(--card)}
svg .grid{stroke:var(--line)}
svg .axis{stroke:var(--quiet)}
svg polyline{fill:none;stroke-width:2;stroke-linejoin:round}
svg polyline.raw{stroke:var(--raw);stroke-width:1.2}
svg polyline.main{stroke:var(--main)}
svg polyline.second{stroke:var(--second)}
svg polyline.third{stroke:var(--third)}
svg circle.raw{fill:var(--raw)}
svg circle.main{fill:var(--main)}
svg circle.second{fill:var(--second)}
svg circle.third{fill:var(--third)}
svg circle.best{fill:none;stroke:var(--text);stroke-width:1.6}
svg rect.before,svg rect.same{fill:var(--before)}
svg rect.after{fill:var(--main)}
svg rect.gained{fill:var(--third)}
svg rect.lost{fill:var(--bad)}
svg .whisker{fill:none;stroke:var(--text);stroke-width:1.3}
svg .halo{fill:none;stroke:var(--card);stroke-width:3.6;stroke-linecap:square}
@media(max-width:520px){svg text{font-size:14px}svg text.value{font-size:13px}}
.legend{margin:8px 0 0;font-size:13px;color:var(--quiet)}
.legend i{display:inline-block;width:12px;height:12px;border-radius:3px;margin:0 5px 0 8px;vertical-align:-1px}
.legend i:first-child{margin-left:0}
i.before{background:var(--before)}i.after,i.main{background:var(--main)}i.raw{background:var(--raw)}
i.second{background:var(--second)}i.third{background:var(--third)}
.queries{list-style:none;margin:0;padding:0}
.queries li{padding:10px 0;border-top:1px solid var(--line);display:grid;grid-template-columns:1fr auto;gap:2px 16px}
.queries li:first-child{border-top:0;padding-top:0}
.queries p{margin:0;grid-column:1/-1;overflow-wrap:anywhere;font-size:14px}
.queries .query{grid-column:1;font-weight:600;font-size:15px}
.queries .ranks{grid-column:2;color:var(--quiet);white-space:nowrap;font-variant-numeric:tabular-nums}
.queries span{color:var(--quiet);display:inline-block;min-width:76px}
table{border-collapse:collapse;width:100%;font-size:13px}
th,td{text-align:left;padding:5px 12px 5px 0;border-top:1px solid var(--line);vertical-align:top;font-weight:400;
overflow-wrap:anywhere}
tr:first-child>*{border-top:0}
th{color:var(--quiet);width:34%}
td:nth-child(3){color:var(--quiet);width:24%}
summary{cursor:pointer;color:var(--quiet);font-size:13px;padding-top:10px}
footer{margin-top:32px;font-size:13px;color:var(--quiet)}
"""
