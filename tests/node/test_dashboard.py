"""The dashboard against whoever is on the same machine's browser: other sites, other names, strange files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_support import Site, board_of, command, served
from network_simulator import ANN, NetworkSimulator
from node_support import draw_ensemble
from PIL import Image
from test_starting import COMMAND, COMPUTING, imported
from typer.testing import CliRunner

from paris.node.activity import MOST_POINTS, Activity, last_activity
from paris.node.cli.app import app
from paris.node.dashboard.gallery import Gallery
from paris.node.dashboard.serve import is_private, names_of, open_socket
from paris.node.dashboard.watch import known_runs
from paris.node.home import Home
from paris.node.overview import overview
from paris.protocol.errors import ResourceError, UsageError
from paris.protocol.records import Record
from paris.registry.library import Library
from paris.registry.runkey import RunKey

WISH = {"ensemble": "nothing", "prompt": "a red fox"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def pictures_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shown"
    folder.mkdir()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    frames[0].save(folder / "still.png")
    frames[0].save(folder / "moves.webp", save_all=True, append_images=frames[1:], duration=100, loop=0)
    return folder


@pytest.fixture
def site(home: Home, pictures_folder: Path) -> Iterator[Site]:
    with served(board_of(home, pictures_folder)) as site:
        yield site


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A page of an empty home, for requests that are to change nothing."""
    with served(board_of(Home(tmp_path_factory.mktemp("home")))) as site:
        yield site


def media_of(site: Site) -> dict[str, str]:
    """Digests of what the page shows, by name."""
    return {piece["name"]: piece["digest"] for piece in site.ask("/api/v1/state").json["pictures"]}


class TestOtherSites:
    @pytest.mark.parametrize(
        "host",
        ["evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}", "10.0.0.1:{port}", None],
    )
    @pytest.mark.parametrize("path", ["/", "/api/v1/state", "/static/app.js"])
    def test_a_name_rebound_to_this_machine_is_refused(self, shared: Site, host: str | None, path: str) -> None:
        answer = shared.ask(path, host=host and host.format(port=shared.port))
        assert answer.status in {400, 421}
        assert b"runs" not in answer.body

    @pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
    def test_its_own_names_are_served(self, shared: Site, host: str) -> None:
        assert shared.ask("/api/v1/state", host=host.format(port=shared.port)).status == 200

    def test_served_at_every_address_it_answers_to_numbers_and_still_to_no_foreign_name(self, home: Home) -> None:
        with served(board_of(home), any_address=True) as site:
            assert site.ask("/", host=f"192.0.2.7:{site.port}").status == 200
            assert site.ask("/", host=f"evil.example:{site.port}").status == 421
            assert site.ask("/", host="192.0.2.7:1").status == 421

    @pytest.mark.parametrize("path", ["/api/v1/state", "/static/app.js", "/media/" + "0" * 64])
    @pytest.mark.parametrize("relation", ["cross-site", "same-site"])
    def test_another_site_can_embed_nothing(self, shared: Site, path: str, relation: str) -> None:
        assert shared.ask(path, Sec_Fetch_Site=relation).status == 403
        assert shared.ask("/", Sec_Fetch_Site=relation).status == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": ""},
            {"Origin": "https://127.0.0.1:{port}"},
            {"X_Paris_Token": "guessed"},
            {"X_Paris_Token": ""},
            {"Sec_Fetch_Site": "cross-site"},
        ],
        ids=str,
    )
    def test_a_post_from_elsewhere_draws_nothing(self, shared: Site, headers: dict[str, str]) -> None:
        assert shared.wish(WISH, **{k: v.format(port=shared.port) for k, v in headers.items()}).status == 403
        assert shared.board.studio.state()["job"] is None

    def test_a_form_of_another_site_cannot_stand_for_json(self, shared: Site) -> None:
        form = shared.ask("/api/v1/draw", "POST", b"prompt=fox", Content_Type="application/x-www-form-urlencoded")
        assert form.status == 403

    @pytest.mark.parametrize("path", ["/", "/api/v1/state", "/static/app.js", "/nowhere", "/media/x"])
    def test_every_answer_tells_browsers_to_run_and_frame_nothing_foreign(self, shared: Site, path: str) -> None:
        for answer in (shared.ask(path), shared.ask(path, host="evil.example")):
            policy = answer.headers["content-security-policy"]
            assert "default-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert not any(name.startswith("access-control") for name in answer.headers)

    def test_the_page_loads_nothing_from_elsewhere_and_holds_no_inline_script(self, shared: Site) -> None:
        page = shared.ask("/").body.decode()
        assert "http://" not in page
        assert "https://" not in page
        assert page.count("<script") == page.count('<script type="module" src="/static/') == 1
        assert "style=" not in page


class TestFiles:
    def test_pictures_are_named_by_what_is_in_them(self, site: Site, pictures_folder: Path) -> None:
        found = media_of(site)
        assert found == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in pictures_folder.iterdir()}
        sent = site.ask(f"/media/{found['moves.webp']}")
        assert sent.body == (pictures_folder / "moves.webp").read_bytes()
        assert sent.headers["content-type"] == "image/webp"
        kinds = {p["name"]: p["kind"] for p in site.ask("/api/v1/state").json["pictures"]}
        assert kinds == {"still.png": "picture", "moves.webp": "animation"}

    def test_a_path_in_an_address_leads_to_no_file(self, home: Home, site: Site, pictures_folder: Path) -> None:
        home.identity()
        secret = home.identity_path.read_bytes()
        site.ask("/api/v1/state")
        ways = ["../home/identity.key", "..%2fhome%2fidentity.key", "%2e%2e/home/identity.key", str(home.identity_path)]
        ways += [
            "still.png",
            "..\\home\\identity.key",
            hashlib.sha256(secret).hexdigest(),
            "../../../etc/passwd",
        ]
        for way in ways:
            for root in ("/media/", "/static/", "/"):
                answer = site.ask(root + way)
                assert answer.status in {400, 404}, root + way
                assert secret not in answer.body

    def test_links_and_what_can_hold_scripts_are_not_sent(self, home: Home, site: Site, pictures_folder: Path) -> None:
        home.identity()
        (pictures_folder / "key.png").symlink_to(home.identity_path)
        (pictures_folder / "page.html").write_text("<script>1</script>")
        (pictures_folder / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        (pictures_folder / "no-picture.png").write_text("<html>")
        assert set(media_of(site)) == {"still.png", "moves.webp"}
        for path in pictures_folder.iterdir():
            if path.name not in {"still.png", "moves.webp"}:
                assert site.ask(f"/media/{hashlib.sha256(path.read_bytes()).hexdigest()}").status == 404

    def test_a_broken_picture_is_read_once_and_never_hashed_until_it_is_another(
        self, pictures_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken, opened, hashed = pictures_folder / "broken.png", [], []
        broken.write_bytes(b"no picture")
        open_image, read_bytes = Image.open, Path.read_bytes
        monkeypatch.setattr(Image, "open", lambda path: opened.append(Path(path).name) or open_image(path))
        monkeypatch.setattr(Path, "read_bytes", lambda path: hashed.append(path.name) or read_bytes(path))
        gallery = Gallery([pictures_folder])
        for _ in range(3):
            assert {piece.path.name for piece in gallery.look()} == {"still.png", "moves.webp"}
        assert (opened.count("broken.png"), hashed.count("broken.png")) == (1, 0)
        Image.new("RGB", (9, 9), "green").save(broken)
        assert "broken.png" in {piece.path.name for piece in gallery.look()}
        assert sorted(opened) == ["broken.png", "broken.png", "moves.webp", "still.png"]

    def test_a_file_that_became_another_is_not_sent_under_the_old_digest(
        self, site: Site, pictures_folder: Path
    ) -> None:
        digest = media_of(site)["still.png"]
        assert site.ask(f"/media/{digest}").status == 200
        (pictures_folder / "still.png").write_bytes(b"another")
        assert site.ask(f"/media/{digest}").status == 404

    def test_a_note_beside_a_picture_that_says_odd_things_is_left_out(self, site: Site, pictures_folder: Path) -> None:
        note = {"ensemble": "e", "prompt": "fox", "routing": {"experts": 1, "steps": [None]}}
        (pictures_folder / "still.json").write_text(json.dumps(note))
        (pictures_folder / "moves.json").write_text(
            json.dumps({**note, "routing": {"experts": 1, "steps": [{"0": 1.0}]}})
        )
        drawn = {p["name"]: p["drawn"] for p in site.ask("/api/v1/state").json["pictures"]}
        assert drawn["still.png"] is None
        assert drawn["moves.webp"]["prompt"] == "fox"

    def test_looking_changes_nothing_in_the_home(self, home: Home, site: Site) -> None:
        before = sorted((str(path), path.stat().st_mtime_ns) for path in home.path.rglob("*"))
        for path in ("/", "/api/v1/state", "/static/app.js", "/media/" + "0" * 64):
            site.ask(path)
        assert sorted((str(path), path.stat().st_mtime_ns) for path in home.path.rglob("*")) == before
        assert not home.identity_path.exists()


class TestDrawing:
    @pytest.mark.skipif(not shutil.which("node"), reason="Node.js runs the page's own function")
    def test_a_refusal_is_shown_in_the_words_and_with_the_status_of_whoever_refused(self, shared: Site) -> None:
        refused = (
            shared.wish(WISH, X_Paris_Token="of an earlier start"),  # in text, before the studio is asked
            shared.wish({**WISH, "prompt": "x" * 20_000}),
            shared.wish(WISH),  # in JSON
            shared.wish({**WISH, "steps": 0}),
        )
        answers = json.dumps([[answer.body.decode(), answer.status] for answer in refused])
        show = f"for (const [said, status] of {answers}) console.log(await refusal(new Response(said, {{ status }})));"
        script = shared.ask("/static/dom.js").body.decode() + show
        run = ["node", "--input-type=module"]
        done = subprocess.run(run, input=script, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.splitlines() == [
            "The page is from an earlier start: load it again. (403)",
            "That is too much to ask for. (413)",
            f"{refused[2].json['detail']} (404)",
            "The words or one of the settings are not among what can be drawn (422).",
        ]

    @pytest.mark.parametrize(
        "wish",
        [
            {"ensemble": "nothing"},
            {**WISH, "prompt": "   "},
            {**WISH, "prompt": "x" * 401},
            {**WISH, "steps": 0},
            {**WISH, "steps": 10**9},
            {**WISH, "guidance": "3"},
            {**WISH, "seed": -1},
            {**WISH, "folder": "/etc"},
        ],
        ids=str,
    )
    def test_a_wish_that_is_none_is_refused(self, shared: Site, wish: dict[str, object]) -> None:
        assert shared.wish(wish).status == 422

    def test_no_address_of_a_folder_is_taken_for_an_ensemble(self, shared: Site, tmp_path: Path) -> None:
        (tmp_path / "model_index.json").write_text("{}")
        for name in (str(tmp_path), "..", "../..", "nothing"):
            assert shared.wish({**WISH, "ensemble": name}).status == 404

    def test_a_flood_is_refused_before_it_is_read(self, shared: Site) -> None:
        assert shared.wish({**WISH, "prompt": "x" * 20_000}).status == 413
        headers = {"Origin": f"http://127.0.0.1:{shared.port}", "X_Paris_Token": "the token of this start"}
        assert shared.ask("/api/v1/draw", "POST", b"0\r\n\r\n", Transfer_Encoding="chunked", **headers).status == 413

    def test_other_machines_draw_nothing_here(self, home: Home) -> None:
        with served(board_of(home), draws=False) as site:
            assert site.wish(WISH).status == 403
            assert site.ask("/api/v1/state").json["draws"] is False

    @pytest.mark.slow
    def test_a_wish_becomes_a_clip_with_who_drew_which_step(self, home: Home, tmp_path: Path) -> None:
        ensemble = draw_ensemble(tmp_path / "ensemble", 3, "video-micro")
        with served(board_of(home, ensembles=(ensemble,))) as site:
            (found,) = site.ask("/api/v1/state").json["studio"]["ensembles"]
            wish = {"ensemble": found["id"], "prompt": "--help", "seed": 7, "steps": 4, "top_k": 1}
            assert site.wish(wish).status == 202
            assert site.wish(wish).status == 409
            job = until_drawn(site)
            assert job["state"] == "drawn", job
            piece = next(p for p in site.board.gallery.look() if p.digest == job["digest"]).as_json()
            assert (piece["kind"], piece["drawn"]["prompt"], piece["drawn"]["seed"]) == ("animation", "--help", 7)
            routing = piece["drawn"]["routing"]
            assert routing["experts"] == 3
            assert [sum(step.values()) for step in routing["steps"]] == pytest.approx([1.0] * 4)
            assert all(len(step) == 1 for step in routing["steps"])
            assert site.ask(f"/media/{job['digest']}").status == 200

    @pytest.mark.slow
    def test_an_ensemble_that_cannot_draw_says_why(self, home: Home, tmp_path: Path) -> None:
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "model_index.json").write_text("{}")
        with served(board_of(home, ensembles=(tmp_path / "broken",))) as site:
            (found,) = site.ask("/api/v1/state").json["studio"]["ensembles"]
            assert site.wish({**WISH, "ensemble": found["id"]}).status == 202
            job = until_drawn(site)
        assert job["state"] == "failed"
        assert "is not a whole pipeline" in job["what"]
        assert not list((home.path / "drawings").glob("*"))


def until_drawn(site: Site) -> dict[str, object]:
    """The job once it has ended; `--timeout` bounds this."""
    while (job := site.ask("/api/v1/state").json["studio"]["job"])["state"] == "drawing":
        time.sleep(0.05)
    return dict(job)


class TestTheCommand:
    @pytest.mark.slow
    def test_it_prints_its_address_serves_and_ends_well_with_ctrl_c_and_tells_no_secrets(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_neverToBeSeen")
        home = Home(tmp_path / "home")
        name, secret = home.identity().peer_id, home.identity_path.read_bytes()
        with command(home.path) as (url, _):
            site = Site(int(url.rstrip("/").rpartition(":")[2]), board_of(home))
            state = site.ask("/api/v1/state")
            assert state.json["runs"] == []
            assert state.json["machine"]["peer"] == name
            told = state.body + b"".join(site.ask(path).body for path in ("/", "/static/app.js", "/static/style.css"))
        assert b"hf_neverToBeSeen" not in told
        assert secret[-32:].hex().encode() not in told
        assert secret not in told

    def test_mistakes_are_answered_in_words(self, tmp_path: Path) -> None:
        here = ("--home", str(tmp_path), "--no-browser")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            told = CliRunner().invoke(app, ["dashboard", "--port", str(taken.getsockname()[1]), *here])
        assert told.exit_code == 5
        assert "--port 0 takes any that is free" in told.output
        for arguments, said in (
            (("hello",), "is not a run key"),
            (("--show", str(tmp_path / "nowhere")), "is no folder"),
            (("--host", "no such host"), "is no address of this machine"),
        ):
            told = CliRunner().invoke(app, ["dashboard", *arguments, *here, "--port", "0"])
            assert told.exit_code == 2, told.output
            assert said in told.output

    @pytest.mark.slow
    def test_it_computes_nothing_itself_and_the_light_one_imports_no_hivemind(self, tmp_path: Path) -> None:
        modules = imported(tmp_path, COMMAND, "dashboard", "--light", "--host", "192.0.2.1", "--no-browser")
        assert "paris.node.dashboard.serve" in modules
        assert not modules & (COMPUTING | {"hivemind"})


def test_without_a_flag_only_this_machine_reaches_it() -> None:
    with open_socket("127.0.0.1", 0) as here:
        assert is_private(here)
        port = here.getsockname()[1]
        assert names_of(here, "127.0.0.1") == [f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"]
        with pytest.raises(ResourceError):
            open_socket("127.0.0.1", port)
    with open_socket("0.0.0.0", 0) as everywhere:
        assert not is_private(everywhere)
        assert not any(name.startswith("0.0.0.0") for name in names_of(everywhere, "0.0.0.0"))
    with pytest.raises(UsageError):
        open_socket("no such host", 0)


class TestActivity:
    def test_a_note_tells_what_the_node_does_until_it_leaves(self, tmp_path: Path) -> None:
        moment, path = [1000.0], tmp_path / "a" / "note.json"
        activity = Activity(path, "sha256:" + "0" * 64, lambda: moment[0])
        activity.hear("ready", peer_id="12D3", addrs=("/ip4/127.0.0.1/tcp/1",), run="paris://x", name="n")
        activity.hear("training", unit="cluster-0", step=0, target=99, parent_by=[])
        activity.hear("step", unit="cluster-0", step=1, loss=0.5, per_s=10.0, mfu=None, loss_by_noise=[])
        assert last_activity(path)["doing"] == "training", "a step was written at once"
        moment[0] += 3
        activity.hear("step", unit="cluster-0", step=2, loss=0.25, per_s=11.0, mfu=None, loss_by_noise=[])
        note = last_activity(path)
        assert (note["running"], note["doing"], note["step"], note["per_s"]) == (True, "step", 2, 11.0)
        assert note["curve"] == [[1, 0.5], [2, 0.25]]
        activity.hear("waiting", reason="nothing to do")
        assert "per_s" not in last_activity(path)
        activity.hear("left")
        assert last_activity(path)["running"] is False

    def test_a_flood_of_prepared_samples_is_not_a_write_each(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moment, path, written = [1000.0], tmp_path / "note.json", []
        monkeypatch.setattr("paris.node.activity.write_json", lambda *_: written.append(moment[0]))
        activity = Activity(path, "sha256:" + "0" * 64, lambda: moment[0])
        for done in range(80):
            activity.hear("prepare", unit="router", done=done)
            moment[0] += 0.125
        assert written == [1000.0, 1003.0, 1006.0, 1009.0]

    def test_a_long_training_keeps_a_short_curve_with_its_ends(self, tmp_path: Path) -> None:
        activity = Activity(tmp_path / "note.json", "sha256:" + "0" * 64, lambda: 1000.0)
        for step in range(3 * MOST_POINTS):
            activity.hear("step", unit="router", step=step, loss=1.0, per_s=1.0, mfu=None)
        activity.hear("complete", units=1)
        curve = last_activity(tmp_path / "note.json")["curve"]
        assert len(curve) <= MOST_POINTS
        assert (curve[0][0], curve[-1][0]) == (0, 3 * MOST_POINTS - 1)

    @pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"begun_s": 1.0}, {"pid": "x"}])
    def test_a_node_that_was_killed_or_whose_number_came_back_does_not_run(self, tmp_path: Path, change: dict) -> None:
        path = tmp_path / "note.json"
        Activity(path, "sha256:" + "0" * 64).hear("complete", units=1)
        assert last_activity(path)["running"]
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        note = last_activity(path)
        assert note is None or not note["running"]

    def test_a_disk_that_takes_no_note_stops_no_training(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        Activity(tmp_path / "file" / "note.json", "sha256:" + "0" * 64).hear("complete", units=1)
        assert last_activity(tmp_path / "file" / "note.json") is None


def test_one_look_asks_for_the_peers_of_a_run_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    network = NetworkSimulator()
    network.greet(ANN)
    library, asked, records = Library(home.store, network), [], network.records

    async def counted(kind: str, run: str, slot: str) -> list[Record]:
        asked.append(kind)
        return await records(kind, run, slot)

    library.store.put_bytes(network.bytes_of(network.run))
    monkeypatch.setattr(network, "records", counted)
    seen = asyncio.run(overview(library, RunKey(network.run), home, ()))
    assert [node["peer"] for node in seen["nodes"]] == [ANN.peer_id]
    assert asked.count("peer") == 1


def test_a_home_knows_the_runs_it_has_had_to_do_with_and_no_others(home: Home) -> None:
    known, other = home.store.put_bytes(b"a genesis"), home.store.put_bytes(b"another blob")
    for name in (known.removeprefix("sha256:")[:16], "ab" * 8, "..", "*" * 16):
        (home.path / "work" / name).mkdir(parents=True, exist_ok=True)
    assert [key.run for key in known_runs(home)] == [known]
    assert other != known
