"""Requests that start a labeling run and come again with the same key, because their answer was lost."""

import threading
from concurrent.futures import ThreadPoolExecutor

from my_backend.labeling.runs.records import Labels, Run
from my_backend.labeling.runs.writer import Writer
from testing.fake_label_studio.server import FakeLabelStudio
from tests.my_backend.labeling.runs.conftest import CONNECTED, MakeWriter, end


def ask(writer: Writer, tasks: list[int]) -> Run:
    return writer.submit(CONNECTED, [Labels(["Cat"], tasks)], idempotency_key="a1")


def test_run_is_found_after_a_restart(make_writer: MakeWriter, label_studio: FakeLabelStudio) -> None:
    tasks = label_studio.labels.add(2)
    run = end(make_writer(), ask(make_writer(), tasks))

    again = make_writer()
    assert ask(again, tasks) == run
    end(again, again.undo(run.id))
    assert label_studio.labels.choices() == {1: [], 2: []}


def test_requests_at_the_same_time_start_one_run(make_writer: MakeWriter, label_studio: FakeLabelStudio) -> None:
    servers, tasks, meet = [make_writer(), make_writer()], label_studio.labels.add(2), threading.Barrier(8)

    def ask_at_once(number: int) -> str:
        meet.wait()
        return ask(servers[number % 2], tasks).id

    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(ask_at_once, range(8)))

    assert [run.id for run in servers[0].store.of_project(CONNECTED.uid)] == [*found]
