"""`thresher data get`: published files from a real HTTP server on this machine."""

import hashlib
import io
import json
import tarfile
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner

from thresher.cli import main
from thresher.errors import ConfigError, DataError
from thresher_training.fetch import DataFile, DataFiles, data_files, fetch

TABLE = b"text\tlabels\n" * 4000


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Publisher:
    """An HTTP server with files by name; counts what is asked for."""

    def __init__(self):
        self.content = {}
        self.asked = []
        self.breaks = 0
        """How many answers break off in the middle."""
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.removeprefix("/")
                publisher.asked.append(name)
                content = publisher.content.get(name)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if publisher.breaks:
                    publisher.breaks -= 1
                    content = content[: len(content) // 2]
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def url(self, name):
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def publish(self, name, content, **more):
        self.content[name] = content
        return DataFile(**{"path": name, "url": self.url(name), "sha256": sha256(content), **more})


@pytest.fixture
def publisher():
    made = Publisher()
    Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


def a_set(*files):
    return DataFiles(
        name="tags",
        title="tags",
        page="https://example.org/tags",
        licence="CC0",
        folder="made/tags",
        files=files,
    )


def everything_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_files_lie_in_the_folder_that_recipes_read(publisher, tmp_path):
    folder = fetch(a_set(publisher.publish("train.tsv", TABLE)), tmp_path)
    assert folder == tmp_path / "made" / "tags"
    assert (folder / "train.tsv").read_bytes() == TABLE
    assert everything_in(tmp_path) == ["made/tags/train.tsv"]


def test_what_is_there_is_not_asked_for_again(publisher, tmp_path):
    wanted = a_set(publisher.publish("train.tsv", TABLE))
    fetch(wanted, tmp_path)
    fetch(wanted, tmp_path)
    assert publisher.asked == ["train.tsv"]


def test_another_content_is_refused_and_not_kept(publisher, tmp_path):
    file = publisher.publish("train.tsv", TABLE)
    publisher.content["train.tsv"] = b"something else"
    with pytest.raises(DataError) as caught:
        fetch(a_set(file), tmp_path)
    for part in (publisher.url("train.tsv"), sha256(TABLE), sha256(b"something else")):
        assert part in str(caught.value)
    assert everything_in(tmp_path) == []


def test_a_download_that_breaks_off_is_tried_again(publisher, tmp_path):
    file = publisher.publish("train.tsv", TABLE)
    publisher.breaks = 1
    folder = fetch(a_set(file), tmp_path)
    assert (folder / "train.tsv").read_bytes() == TABLE
    assert publisher.asked == ["train.tsv"] * 2


def test_a_download_that_keeps_breaking_off_leaves_nothing_half_done(publisher, tmp_path):
    done, broken = publisher.publish("a.tsv", b"a"), publisher.publish("b.tsv", TABLE)
    fetch(a_set(done), tmp_path)
    publisher.breaks = 3
    with pytest.raises(DataError, match=r"b\.tsv cannot be fetched, tried 3 times"):
        fetch(a_set(done, broken), tmp_path)
    assert everything_in(tmp_path) == ["made/tags/a.tsv"]


def test_an_address_that_is_gone_is_named(publisher, tmp_path):
    file = publisher.publish("train.tsv", TABLE)
    publisher.content.clear()
    with pytest.raises(DataError, match=r"/train\.tsv cannot be fetched.*404"):
        fetch(a_set(file), tmp_path)


def test_a_file_of_the_users_own_is_not_overwritten(publisher, tmp_path):
    place = tmp_path / "made" / "tags" / "train.tsv"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"my own")
    with pytest.raises(DataError, match=f"is {sha256(b'my own')}, expected {sha256(TABLE)}"):
        fetch(a_set(publisher.publish("train.tsv", TABLE)), tmp_path)
    assert place.read_bytes() == b"my own"
    assert publisher.asked == []


def test_a_file_without_an_address_is_asked_of_the_user_and_then_checked(tmp_path):
    wanted = a_set(DataFile(path="train.tsv", sha256=sha256(TABLE)))
    with pytest.raises(DataError, match=r"train\.tsv is missing.*https://example.org/tags"):
        fetch(wanted, tmp_path)
    place = tmp_path / "made" / "tags" / "train.tsv"
    place.parent.mkdir(parents=True)
    place.write_bytes(TABLE)
    fetch(wanted, tmp_path)


def zipped(members):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


def tarred(members):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_archives_become_folders(publisher, tmp_path, pack):
    content = pack({"a.jpg": b"a", "more/b.jpg": b"b"})
    wanted = a_set(publisher.publish("pictures", content, unpack=True))
    fetch(wanted, tmp_path)
    fetch(wanted, tmp_path)
    assert everything_in(tmp_path) == ["made/tags/pictures/a.jpg", "made/tags/pictures/more/b.jpg"]
    assert publisher.asked == ["pictures"]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_archives_that_reach_out_of_their_folder_are_refused(publisher, tmp_path, pack):
    content = pack({"a.jpg": b"a", "../../out.txt": b"bad"})
    file = publisher.publish("pictures", content, unpack=True)
    with pytest.raises(DataError, match=r"pictures: cannot be unpacked.*out\.txt"):
        fetch(a_set(file), tmp_path)
    assert everything_in(tmp_path) == []


def test_what_is_no_archive_is_told(publisher, tmp_path):
    file = publisher.publish("pictures", b"no archive", unpack=True)
    with pytest.raises(DataError, match="/pictures: cannot be unpacked"):
        fetch(a_set(file), tmp_path)
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "../a"}, "leaves its folder"),
        ({"path": "/etc/a"}, "leaves its folder"),
        ({"sha256": "abc"}, "expected 64 lower-case hex digits"),
        ({"url": "ftp://example.org/a"}, "expected an https:// address"),
        ({"url": None, "unpack": True}, "has no url"),
    ],
)
def test_wrong_descriptions_are_refused(options, message):
    right = {"path": "a", "sha256": "0" * 64, "url": "https://example.org/a"}
    with pytest.raises(ConfigError, match=message):
        DataFile(**{**right, **options})


def get(*arguments):
    return CliRunner().invoke(main, ["data", "get", *arguments], catch_exceptions=False)


def test_the_command_takes_a_file_and_says_where_the_data_are(publisher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THRESHER_DATA", raising=False)
    file = publisher.publish("train.tsv", TABLE)
    Path("tags.toml").write_text(
        'name = "tags"\ntitle = "Tags"\npage = "https://example.org"\nlicence = "CC0"\n'
        f'folder = "tags"\n[[files]]\npath = "train.tsv"\nurl = "{file.url}"\n'
        f'sha256 = "{file.sha256}"\n'
    )
    done = get("tags.toml")
    folder = tmp_path / ".thresher" / "data-sets"
    assert done.exit_code == 0
    assert f"tags: 1 file, as published, in {folder / 'tags'}" in done.stdout
    assert f"export THRESHER_DATA={folder}" in done.stderr
    monkeypatch.setenv("THRESHER_DATA", str(tmp_path / "mine"))
    shown = json.loads(get("tags.toml", "--json").stdout)
    assert shown["folder"] == str(tmp_path / "mine" / "tags")
    assert (tmp_path / "mine" / "tags" / "train.tsv").read_bytes() == TABLE


def test_an_unknown_name_lists_the_valid_ones():
    done = get("goemotoins")
    assert done.exit_code == 1
    assert 'did you mean "goemotions"? Valid: goemotions, ' in done.stderr


@pytest.mark.parametrize("name", ["goemotions", "emotions", "yeast", "bibtex", "delicious"])
def test_each_known_data_set_is_described_in_full(name):
    described = data_files(name)
    assert described.name == name
    assert all(file.url is None or file.url.startswith("https://") for file in described.files)
