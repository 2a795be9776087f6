"""The page in a real browser, fed through a real broker by a bench that only speaks."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import browse
import pytest
from make_bench import PIPELINE, SOURCES, L, TalkingBench

from dashboard.feed import Feed
from dashboard.server import Setting, listen, make_app, make_server
from freerun import kafka
from freerun.topics import Topics


@dataclass
class Served:
    """A dashboard in this process."""

    url: str
    feed: Feed
    data: Path

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        return self.ask(path, None, headers or {})

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        kind = {"Content-Type": "application/json"} if headers is None else headers
        status, said = self.ask(path, json.dumps(body).encode(), kind)
        return status, json.loads(said)

    def ask(self, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@pytest.fixture
def bench(broker: str, installation: str, tmp_path: Path) -> Iterator[TalkingBench]:
    with TalkingBench(broker, installation, tmp_path / "data", events_per_s=2000) as talking:
        yield talking


@pytest.fixture
def served(bench: TalkingBench, broker: str, tmp_path: Path) -> Iterator[Served]:
    feed = Feed(
        bench.topics, PIPELINE,
        lambda: kafka.Reader(broker, "dashboard", queue_mb=8),
        lambda: kafka.Publisher(broker, "dashboard"),
    )  # fmt: skip
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    app = make_app(Setting("telescope", L, SOURCES), feed, data)
    sock = listen("127.0.0.1", 0)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    feed.start()
    thread.start()
    try:
        browse.wait_until(lambda: server.started, "the web server is up")
        browse.wait_until(lambda: not feed.trouble, "the feed hears Kafka")
        browse.wait_until(lambda: "control/run" in feed.states, "run control is heard")
        yield Served(f"http://127.0.0.1:{sock.getsockname()[1]}", feed, data)
    finally:
        server.should_exit = True
        thread.join(15)
        feed.stop()
        sock.close()


def test_a_run_from_start_to_file(served: Served, bench: TalkingBench, tmp_path: Path) -> None:
    with browse.open_page(served.url, tmp_path / "profile") as page:
        assert browse.text(page, "occupancy-total") == "0"
        run = browse.press_start(page, comment="first light", shifter="anna")
        grown = browse.sees_growth(page)
        assert grown > 0
        assert "RUNNING" in browse.text(page, "state")
        assert page.is_disabled("#start-run")
        browse.press_stop(page, run)
        browse.wait_until(
            lambda: browse.occupancy_total(page) == bench.final_hits, "the final integral"
        )
        assert f"run {run}" in browse.text(page, "plots-of")
        assert "final" in browse.text(page, "plots-of")
        row = browse.run_row(page, run)
        assert "first light" in row and "anna" in row and "CLOSES" in row
        link = browse.run_files(page, run)[f"Run{run:06d}_muons_0000.root"]
        assert served.get(link) == (200, b"root" * 1_000_000)
        command = bench.commands[0]
        assert (command["who"], command["type"]) == ("anna", "beam")
        assert page.complaints == []  # no error in its console, no request to another place


def test_who_comes_late_sees_the_whole_run_and_keeps_his_zoom(
    served: Served, bench: TalkingBench, tmp_path: Path
) -> None:
    bench.start(7, {"type": "beam"})
    with bench._lock:
        bench.grow(30)
    with browse.open_page(served.url, tmp_path / "profile", browse.LAPTOP) as page:
        browse.wait_until(lambda: browse.run_number(page) == 7, "run 7")
        browse.wait_until(lambda: browse.occupancy_total(page) > 30 * 2000 * 12, "all its hits")
        page.wait_for_selector("#drift-time .js-plotly-plot .scatterlayer")
        browse.drag(page, "drift-time", 0.4, 0.6)
        zoomed = browse.shown_figure(page, "drift-time")["range"]
        assert zoomed[1] - zoomed[0] < 200  # ns
        browse.sees_growth(page)
        assert browse.shown_figure(page, "drift-time")["range"] == pytest.approx(zoomed)
        assert browse.shown_figure(page, "occupancy")["traces"] == 4
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]
        page.set_viewport_size({"width": 1920, "height": 1080})
        height = page.evaluate("[document.documentElement.scrollHeight, innerHeight]")
        assert height[0] <= height[1]


def test_a_page_whose_server_is_gone_says_so(served: Served, tmp_path: Path) -> None:
    with browse.open_page(served.url, tmp_path / "profile") as page:
        page.wait_for_selector("#lost", state="hidden")
        page.route("**/api/view*", lambda route: route.abort())
        page.wait_for_selector("#lost", state="visible")
        assert "no connection" in page.title()
        page.unroute("**/api/view*")
        page.wait_for_selector("#lost", state="hidden")


def test_answers_that_take_longer_than_the_next_question_are_all_shown(
    served: Served, bench: TalkingBench, tmp_path: Path
) -> None:
    def slowly(route: Any) -> None:
        time.sleep(1.6)
        route.continue_()

    with browse.open_page(served.url, tmp_path / "profile") as page:
        page.route("**/api/view*", slowly)
        bench.start(5, {"type": "beam"})
        browse.wait_until(lambda: browse.run_number(page) == 5, "run 5")
        browse.sees_growth(page)
        bench.stop()
        browse.wait_until(
            lambda: browse.occupancy_total(page) == bench.final_hits, "the final integral"
        )


def test_what_is_refused_is_a_sentence(served: Served, bench: TalkingBench, tmp_path: Path) -> None:
    assert served.post("/api/run/stop", {})[0] == 409
    status, said = served.post("/api/run/start", {"type": "beam", "comment": "by REST"})
    assert (status, said) == (200, {"ok": True, "text": "Run 1 starts.", "run": 1})
    bench.deaf = True
    begun = time.monotonic()
    status, said = served.post("/api/run/stop", {"shifter": "anna"})
    assert status == 504 and "did not answer within 5 s" in said["text"]
    assert time.monotonic() - begun < 20


def test_rest_says_what_the_page_says(served: Served, bench: TalkingBench) -> None:
    bench.start(3, {"type": "beam", "comment": "x"})
    browse.wait_until(lambda: served.feed.snapshot is not None, "a snapshot")
    bench.stop(gaps=("tdc0: 3 words",))
    browse.wait_until(
        lambda: served.feed.runs.get(3, {}).get("state") == "closed", "the run's document"
    )
    browse.wait_until(lambda: served.feed.snapshot.final, "the last snapshot")
    browse.wait_until(
        lambda: json.loads(served.get("/api/status")[1])["hits"] == bench.final_hits, "its hits"
    )
    status = json.loads(served.get("/api/status")[1])
    assert status["run"] == 3 and status["hits"] == bench.final_hits
    assert status["ledger"] == {"level": "bad", "text": "GAP", "detail": "tdc0: 3 words"}
    assert {s["id"] for s in status["sources"]} == set(SOURCES)
    assert [r["run"] for r in json.loads(served.get("/api/runs")[1])] == [3]
    stored = json.loads(served.get("/api/runs/3")[1])["stored"]
    assert "Run000003_muons_0000.root" in {f["name"] for f in stored}
    hists = json.loads(served.get("/api/hists?name=ch0/occupancy")[1])["hists"]
    assert len(hists[0]["values"]) == 4 and hists[0]["axes"][1]["label"] == "cell"
    for path in ("/api/runs/99", "/api/hists?name=no", "/api/nothing", "/files/3/no.root"):
        code, said = served.get(path)
        assert code == 404 and json.loads(said)["text"]


def test_files_of_others_and_pages_of_others_are_refused(
    served: Served, bench: TalkingBench
) -> None:
    (served.data / "secret.txt").write_text("mine")
    bench.start(1, {})
    bench.stop()
    browse.wait_until(lambda: 1 in served.feed.runs, "the run's document")
    for name in ("../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "/etc/passwd", "raw/..",
                 ".Run000001.part", ""):  # fmt: skip
        assert served.get(f"/files/1/{name}")[0] == 404, name
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert served.post("/api/run/start", {}, form)[0] == 415
    foreign = {"Content-Type": "application/json", "Origin": "http://evil.example"}
    assert served.post("/api/run/start", {}, foreign)[0] == 403
    assert served.get("/api/status", {"Host": "evil.example"})[0] == 403
    assert bench.commands == []


def test_without_topics_or_broker_the_page_says_why(installation: str, tmp_path: Path) -> None:
    port = socket.socket()
    port.bind(("127.0.0.1", 0))  # bound, not listening: nobody answers there
    nowhere = f"127.0.0.1:{port.getsockname()[1]}"
    feed = Feed(
        Topics(installation), PIPELINE,
        lambda: kafka.Reader(nowhere, "dashboard", queue_mb=8),
        lambda: kafka.Publisher(nowhere, "dashboard"),
    )  # fmt: skip
    feed.start()
    try:
        browse.wait_until(lambda: "connecting" not in feed.trouble, "a reason")
        answer = feed.command("start_run", "anna")
        assert answer.ok is None and answer.text.startswith("Not sent: ")
    finally:
        feed.stop()
        port.close()


def test_the_process_serves_and_ends_cleanly(
    bench: TalkingBench, broker: str, project: Path, tmp_path: Path
) -> None:
    text = (project / "configs" / "bench.toml").read_text()
    file = tmp_path / "bench.toml"
    file.write_text(re.sub(r'^name\s*=\s*"\w+"', f'name = "{bench.topics.system}"', text,
                           count=1, flags=re.M))  # fmt: skip
    command = [sys.executable, "-m", "dashboard", "--bench", str(file), "--kafka", broker,
               "--data", str(tmp_path), "--port", "0"]  # fmt: skip
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            said = child.stdout.readline()
            url = said.removeprefix("dashboard at ").strip()
            assert url.startswith("http://127.0.0.1:"), said

            def sources() -> set[str]:
                with urllib.request.urlopen(url + "api/status", timeout=10) as answer:
                    lines = json.load(answer)["sources"]
                return {s["id"] for s in lines if s["lamp"]["level"] == "good"}

            browse.wait_until(lambda: sources() == set(SOURCES), "all sources are heard")
            child.send_signal(signal.SIGTERM)
            assert child.wait(15) == 0
        finally:
            child.kill()
