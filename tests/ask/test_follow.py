"""Knowledge bases follow their models: what goes live, when, and what stays if that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway import events
from gateway.ask.heartbeat import STILL
from gateway.ask.holds import Holds
from gateway.ask.passage import Chunk, Claim, Document, Index
from gateway.catalog import alias_file
from gateway.errors import DeadlineExceeded, GatewayError, KnowledgeStoreFailed, LoadFailed
from gateway.model import Generation, ModelId
from tests.ask.asked import NOTES, PAPER, SAME, Asked
from tests.ask.memory_store import MemoryStore
from tests.ask.stores import chunks, document
from tests.catalog.world import M, World
from tests.running import DEADLINE

TEXT = "a quadrupole focuses the beam"
MANY = [
    document(f"d{number}", f"the words of document {number} alone", f"and more of {number}") for number in range(40)
]


@pytest.fixture
async def asked(tmp_path: Path, made: list[str]) -> Asked:
    asked = Asked(tmp_path)
    await asked.world.swap(made[0])
    await asked.add(PAPER, NOTES)
    return asked


async def found_itself(asked: Asked, text: str = TEXT) -> str:
    """The generation that answered; fails unless the query met an index of that same one."""
    retrieval = await asked.ask(text, limit=1)
    assert retrieval.hits[0].chunk.text == text
    assert retrieval.hits[0].cosine is not None
    assert retrieval.hits[0].cosine > SAME
    return retrieval.index.generation


async def test_after_a_swap_the_old_pair_answers_until_the_new_one_does(asked: Asked, made: list[str]) -> None:
    old = asked.world.find().digest
    (new,) = await asked.world.swap(made[1])
    assert await found_itself(asked) == old
    await asked.follow.look()
    assert await found_itself(asked) == new.digest
    assert asked.follow.states == {}
    (started,), (finished,) = asked.heard(events.ReindexStarted), asked.heard(events.ReindexFinished)
    assert (started.kb, started.generation, started.previous) == ("papers", new.short, old[:12])
    assert (finished.generation, finished.documents) == (new.short, 2)


async def test_a_new_index_is_charged_to_the_owner_of_the_base(asked: Asked, made: list[str]) -> None:
    before = len(asked.heard(events.ChunksEmbedded))
    await asked.world.swap(made[1])
    row = await asked.store.create("physics", "papers", f"huggingface:{M}")
    await asked.store.put_documents(row.kb, [PAPER])
    await asked.follow.look()
    told = asked.heard(events.ChunksEmbedded)[before:]
    chunks_of = {owner: sum(each.texts for each in told if each.owner == owner) for owner in ("", "physics")}
    assert chunks_of["physics"] == 3
    assert chunks_of[""] >= 5, "and the questions that the new index was tried with"
    assert {each.model for each in told} == {M}


async def test_a_device_that_is_too_slow_for_many_texts_at_once_gets_there(
    asked: Asked, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = asked.world.engine
    right = engine.embed

    async def slow(generation: Generation, texts: list[str], *arguments: Any, **more: Any) -> Any:
        if len(texts) > 1:
            raise DeadlineExceeded("no answer within 60 s")
        return await right(generation, texts, *arguments, **more)

    (new,) = await asked.world.swap(made[1])
    monkeypatch.setattr(engine, "embed", slow)
    await asked.follow.look()
    assert await found_itself(asked) == new.digest


async def test_the_old_pair_answers_however_many_newer_generations_come(asked: Asked, made: list[str]) -> None:
    old = asked.world.find().digest
    await asked.world.swap(*made[1:])
    assert await found_itself(asked) == old


async def test_the_old_pair_answers_over_a_restart_too(asked: Asked, made: list[str]) -> None:
    old = asked.world.find().digest
    await asked.world.swap(*made[1:4])
    await asked.world.quiet()
    again = Asked(asked.world.base, asked.store, World(asked.world.base))
    await again.world.catalog.restore()
    await again.world.look()
    await again.world.swap(made[4])
    assert await found_itself(again) == old
    await again.follow.look()
    assert await found_itself(again) == again.world.find().digest


async def test_a_rollback_switches_back_to_the_kept_index_and_embeds_nothing(asked: Asked, made: list[str]) -> None:
    old = await asked.row()
    await asked.world.swap(made[1])
    await asked.follow.look()
    await asked.world.catalog.rollback(ModelId.of(M))
    embedded = len(asked.world.engine.flows)
    await asked.follow.look()
    assert (await asked.row()).live == old.live
    assert "(reindex)" not in asked.world.engine.flows[embedded:]
    assert asked.heard(events.ReindexStarted)[-1].kept
    assert await found_itself(asked) == asked.world.find().digest


async def test_a_kept_index_has_what_came_and_went_meanwhile_before_it_answers(asked: Asked, made: list[str]) -> None:
    await asked.world.swap(made[1])
    await asked.follow.look()
    await asked.add(document("fresh", "a wholly new passage"))
    await asked.add(document("notes", "the notes were rewritten"))
    await asked.store.delete_document("/papers", PAPER.id)
    await asked.world.catalog.rollback(ModelId.of(M))
    await asked.follow.look()
    live = (await asked.row()).live
    assert live is not None
    assert await found_itself(asked, "a wholly new passage") == asked.world.find().digest
    assert sorted(chunk.text for chunk in await asked.store.chunks(live)) == [
        "a wholly new passage",
        "the notes were rewritten",
    ]


async def test_no_more_earlier_indexes_are_kept_than_generations(asked: Asked, made: list[str]) -> None:
    for source in made[1:]:
        await asked.world.swap(source)
        await asked.follow.look()
    row = await asked.row()
    assert len(row.previous) == 2
    assert len(await asked.store.indexes(row.kb)) == 3


async def test_an_alias_that_leads_elsewhere_takes_its_bases_along(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alias_file, "SETTLE", 0.0)
    asked = Asked(tmp_path)
    await asked.world.swap(made[0], path="finetuned/a")
    await asked.world.swap(made[1], path="finetuned/b")
    await _alias(asked, "finetuned/a")
    row = await asked.bases.create("papers", "prod/embedder")
    assert row.embedding_model == "huggingface:prod/embedder"
    await asked.add(PAPER, model="prod/embedder")
    await _alias(asked, "finetuned/b")
    await asked.follow.look()
    assert await found_itself(asked) == asked.world.find("finetuned/b").digest


async def _alias(asked: Asked, target: str) -> None:
    fresh = asked.world.root / ".aliases"
    fresh.write_text(f'[aliases]\n"prod/embedder" = "{target}"\n')
    fresh.rename(asked.world.root / "aliases.toml")
    await asked.world.look()


async def test_a_numbered_version_takes_its_bases_along(tmp_path: Path, made: list[str]) -> None:
    asked = Asked(tmp_path)
    await asked.world.swap(made[0], path=f"{M}/1")
    await asked.add(PAPER)
    (second,) = await asked.world.swap(made[1], path=f"{M}/2")
    await asked.follow.look()
    assert await found_itself(asked) == asked.world.find(M).digest == second.digest


async def test_documents_are_cut_anew_for_a_model_that_cuts_otherwise(asked: Asked, made: list[str]) -> None:
    asked.cutter.suffix = " of the new tokenizer"
    await asked.world.swap(made[1])
    await asked.follow.look()
    live = (await asked.row()).live
    assert live is not None
    assert live.chunking == "lines of the new tokenizer"


async def test_a_reindex_that_was_asked_for_is_made_once_of_the_same_generation(asked: Asked) -> None:
    before = await asked.row()
    await asked.bases.reindex("papers")
    await asked.follow.look()
    after = await asked.row()
    assert after.live is not None
    assert before.live is not None
    assert after.live.id != before.live.id
    assert after.live.generation == before.live.generation
    await asked.follow.look()
    assert await asked.row() == after


async def test_a_base_that_never_got_its_first_index_gets_it(asked: Asked) -> None:
    row = await asked.store.create("", "bare", f"huggingface:{M}")
    await asked.store.put_documents(row.kb, [PAPER])
    await asked.follow.look()
    assert await asked.live("bare") == asked.world.find().digest


async def test_a_document_that_has_no_text_stops_nothing(asked: Asked, made: list[str]) -> None:
    await asked.store.put_documents("/papers", [document("empty")])
    await asked.world.swap(made[1])
    await asked.follow.look()
    assert await found_itself(asked) == asked.world.find().digest


class Failing(MemoryStore):
    """Fails in the middle of an index, as often as it is told to."""

    failures = 0
    puts = 0

    async def upsert(self, index: Index, documents: Any, chunks: Any, vectors: Any, *, whole: bool = True) -> None:
        self.puts += 1
        if self.failures and self.puts > 1:
            self.failures -= 1
            raise KnowledgeStoreFailed("the disk is full")
        await super().upsert(index, documents, chunks, vectors, whole=whole)


async def test_a_reindex_that_fails_leaves_the_old_pair_says_why_and_is_taken_up_later(
    tmp_path: Path, made: list[str]
) -> None:
    store = Failing()
    asked = Asked(tmp_path, store)
    (old,) = await asked.world.swap(made[0])
    await asked.add(PAPER, NOTES, *MANY)
    (new,) = await asked.world.swap(made[1])
    store.puts, store.failures = 0, 1
    await asked.follow.look()
    assert await found_itself(asked) == old.digest
    state = asked.follow.states["/papers"]
    assert (state.state, state.code, state.message) == ("failed", "knowledge_store_failed", "the disk is full")
    (failed,) = asked.heard(events.ReindexFailed)
    assert (failed.generation, failed.serving, failed.code) == (new.short, old.short, "knowledge_store_failed")
    await asked.follow.look()
    assert await asked.live() == old.digest, "not again at once"
    asked.now += 31
    embedded = len(asked.world.engine.flows)
    await asked.follow.look()
    assert await found_itself(asked) == new.digest
    assert asked.world.engine.flows[embedded:].count("(reindex)") < 3, "what was done was not done again"
    assert len(await store.indexes("/papers")) == 2


async def test_an_index_that_a_killed_gateway_left_is_gone_on_with(tmp_path: Path, made: list[str]) -> None:
    store = Failing()
    asked = Asked(tmp_path, store)
    await asked.world.swap(made[0])
    await asked.add(PAPER, NOTES, *MANY)
    (new,) = await asked.world.swap(made[1])
    store.puts, store.failures = 0, 1
    await asked.follow.look()
    (begun,) = [index for index in await store.indexes("/papers") if index.generation == new.digest]
    assert await store.indexed(begun)
    again = Asked(asked.world.base, store, World(asked.world.base))
    await again.world.catalog.restore()
    await again.world.look()
    await again.follow.look()
    assert (await again.row()).live == begun
    assert len(await store.indexed(begun)) == 42


async def test_of_two_gateways_over_one_store_one_builds(asked: Asked, made: list[str]) -> None:
    other = Asked(asked.world.base, MemoryStore(_memory(asked)), asked.world)
    await asked.world.swap(made[1])
    await asyncio.gather(asked.follow.look(), other.follow.look())
    assert len(asked.heard(events.ReindexStarted)) == 1
    assert await found_itself(asked) == await found_itself(other) == asked.world.find().digest
    await asyncio.gather(asked.follow.look(), other.follow.look())
    assert len(await asked.store.indexes("/papers")) == 2


async def test_a_gateway_that_died_with_the_claim_is_waited_for_no_longer_than_it_would_beat(
    asked: Asked, made: list[str]
) -> None:
    old = asked.world.find().digest
    await asked.world.swap(made[1])
    await asked.store.claim("/papers", Claim(), "somebody who is dead")
    for seconds in (STILL - 0.1, 0.1):
        await asked.follow.look()
        assert await asked.live() == old
        asked.now += seconds
    await asked.follow.look()
    assert await asked.live() == asked.world.find().digest


async def test_a_gateway_that_lives_is_waited_for_however_long_it_takes(asked: Asked, made: list[str]) -> None:
    old = asked.world.find().digest
    await asked.world.swap(made[1])
    for beat in range(50):
        assert await asked.store.claim("/papers", Claim("somebody else", beat) if beat else Claim(), "somebody else")
        asked.now += STILL
        await asked.follow.look()
    assert await asked.live() == old


async def test_whoever_has_lost_its_claim_leaves_the_index_to_the_next_who_ends_it(
    asked: Asked, made: list[str]
) -> None:
    before = await asked.row()
    await asked.store.put_documents("/papers", MANY)

    class Sleeps(type(asked.cutter)):  # type: ignore[misc]  # the cutter of the test world
        async def cut(self, generation: Generation, document: Document) -> list[Chunk]:
            asked.now += STILL
            return chunks(document)

    awake, asked.follow._cutter = asked.follow._cutter, Sleeps()
    await asked.bases.reindex("papers")
    await asked.follow.look()
    assert (await asked.row()).live == before.live
    (begun,) = [index for index in await asked.store.indexes("/papers") if index != before.live]
    asked.follow._cutter = awake
    asked.now += STILL
    for _ in range(2):
        await asked.follow.look()
        asked.now += STILL
    assert (await asked.row()).live == begun, "what was asked for still is"
    assert len(await asked.store.indexed(begun)) == 42


def _memory(asked: Asked) -> MemoryStore:
    assert isinstance(asked.store, MemoryStore)
    return asked.store


async def test_what_was_begun_is_given_up_when_the_model_is_rolled_back(asked: Asked, made: list[str]) -> None:
    before = await asked.row()
    await asked.world.swap(made[1])
    rolled = asyncio.Event()

    class RollsBack(type(asked.cutter)):  # type: ignore[misc]  # the cutter of the test world
        async def cut(self, generation: Generation, document: Document) -> list[Chunk]:
            if not rolled.is_set():
                rolled.set()
                await asked.world.catalog.rollback(ModelId.of(M))
            return chunks(document)

    await asked.store.put_documents("/papers", MANY)
    asked.follow._cutter = RollsBack()
    await asked.follow.look()
    assert (await asked.row()).live == before.live
    assert await asked.store.indexes("/papers") == [before.live]


async def test_a_new_index_that_finds_much_less_is_kept_back_and_that_is_told(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(tmp_path)
    (old,) = await asked.world.swap(made[0])
    _blind(old, monkeypatch)
    await asked.add(*_questions())
    (new,) = await asked.world.swap(made[1])
    await asked.follow.look()
    assert await asked.live() == old.digest
    (failed,) = asked.heard(events.ReindexFailed)
    assert (failed.code, failed.generation, failed.serving) == ("worse", new.short, old.short)
    asked.now += 10_000
    await asked.follow.look()
    assert len(asked.heard(events.ReindexStarted)) == 1, "nor is it tried again"
    await asked.bases.reindex("papers")
    await asked.follow.look()
    assert await asked.live() == new.digest, "unless somebody asks for it"


async def test_without_the_gate_whatever_is_live_answers(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(tmp_path, reindex_gate=False)
    (old,) = await asked.world.swap(made[0])
    _blind(old, monkeypatch)
    await asked.add(*_questions())
    (new,) = await asked.world.swap(made[1])
    await asked.follow.look()
    assert await asked.live() == new.digest


def _questions() -> list[Document]:
    """The first sentence of each is what a probe asks."""
    return [document(f"q{number}", f"this is number {number} of many. and an answer") for number in range(20)]


def _blind(old: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts with the same number have the same vector; but in every generation after the old one, all have."""
    from tests.catalog import world  # what is replaced is the module's own

    right = world.vector

    def vector(generation: Generation, text: str) -> Any:
        if generation.digest != old.digest:
            return right(generation, "anything")
        return right(generation, "".join(each for each in text if each.isdigit()))

    monkeypatch.setattr(world, "vector", vector)


async def test_queries_go_first_and_a_gateway_that_is_never_quiet_gets_there(asked: Asked, made: list[str]) -> None:
    (new,) = await asked.world.swap(made[1])
    stop = asyncio.Event()

    async def asks() -> int:
        count = 0
        while not stop.is_set():
            await found_itself(asked)
            count += 1
            await asyncio.sleep(0)
        return count

    asking = asyncio.create_task(asks())
    await asked.follow.look()
    stop.set()
    assert await asking
    assert await asked.live() == new.digest
    assert set(asked.world.engine.flows) >= {"", "(reindex)"}


async def test_the_store_is_left_alone_until_there_is_something_in_it(tmp_path: Path) -> None:
    from gateway.ask.first_use import FirstUse

    opened: list[str] = []

    def make() -> MemoryStore:
        opened.append("store")
        return MemoryStore()

    asked = Asked(tmp_path)
    asked.follow._opened = FirstUse(make, lambda: False)
    await asked.follow.look()
    assert opened == []


async def test_following_goes_on_after_whatever_an_event_says(asked: Asked, made: list[str]) -> None:
    following = asyncio.create_task(asked.follow.follow())
    (new,) = await asked.world.swap(made[1])
    async with asyncio.timeout(DEADLINE):
        while await asked.live() != new.digest:
            await asyncio.sleep(0.01)
    following.cancel()


async def test_a_model_that_cannot_be_loaded_leaves_the_old_pair(asked: Asked, made: list[str]) -> None:
    old = asked.world.find().digest
    (new,) = await asked.world.swap(made[1])
    embed = asked.world.engine.embed

    async def refuses(generation: Generation, *more: Any, **options: Any) -> Any:
        if generation.digest == new.digest:
            raise LoadFailed("no room")
        return await embed(generation, *more, **options)

    asked.world.engine.embed = refuses  # type: ignore[method-assign]  # a device that has no room for it
    await asked.follow.look()
    assert await found_itself(asked) == old
    assert asked.follow.states["/papers"].code == "load_failed"
    assert isinstance(LoadFailed("x"), GatewayError)


async def test_what_is_held_is_on_the_disk(asked: Asked, made: list[str]) -> None:
    old = asked.world.find().digest
    assert old in Holds(str(asked.world.state)).digests()
    await asked.world.swap(made[1])
    await asked.follow.look()
    await asked.follow.look()
    assert set(Holds(str(asked.world.state)).digests()) == {old, asked.world.find().digest}
    await asked.bases.delete("papers")
    await asked.follow.look()
    assert set(Holds(str(asked.world.state)).digests()) == set()


async def test_what_is_held_and_could_not_be_written_is_written_by_the_next_who_wants_it(tmp_path: Path) -> None:
    holds = Holds(str(tmp_path))
    await holds.add("a")
    (tmp_path / "held.json.new").mkdir()  # as a disk without room, to whoever writes
    for _ in range(2):
        with pytest.raises(KnowledgeStoreFailed, match="cannot be written"):
            await holds.add("b")
    with pytest.raises(KnowledgeStoreFailed):
        await holds.match([])
    assert set(holds.digests()) == {"a", "b"}
    (tmp_path / "held.json.new").rmdir()
    await holds.add("b")
    assert set(Holds(str(tmp_path)).digests()) == {"a", "b"}


async def test_a_state_directory_that_cannot_be_written_leaves_the_old_pair_and_is_told_once(
    asked: Asked, made: list[str]
) -> None:
    old = asked.world.find().digest
    (new,) = await asked.world.swap(made[1])
    (asked.world.state / "held.json.new").mkdir()  # as a disk without room, to whoever writes
    for _ in range(3):
        await asked.follow.look()
    assert await found_itself(asked) == old
    assert asked.follow.states["/papers"].code == "knowledge_store_failed"
    assert [each.code for each in asked.heard(events.Notice)] == ["knowledge_unreadable"]
    (asked.world.state / "held.json.new").rmdir()
    asked.now += 1000
    await asked.follow.look()
    assert await found_itself(asked) == new.digest
