"""Nothing is lost: runs are killed, files damaged, disks filled; a few times, or with --every-fault."""

import csv
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

L = pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("sklearn")

from twolayer import cli, data
from twolayer.files import remove_unfinished, written_whole
from twolayer.kernels import library
from twolayer.sealing import read_checkpoint, what_is_damaged
from twolayer.training import LitTwoLayer
from twolayer.training.checkpoints import LocalCheckpointIO

ROOT = Path(__file__).parents[1]
MOONS = ["--config", str(ROOT / "configs/moons.yaml"), "--trainer.accelerator=cpu"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}

pytestmark = [
    pytest.mark.faults,
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


TABLE = ROOT / "benchmarks/results/faults.md"
HEAD = """# Faults, as `python -m pytest -m faults --every-fault` ran

| what happens, and what is to come of it | reached |
|---|---|
"""


@pytest.fixture
def reached(request):
    """Holds what was reached in how many trials; with --every-fault, the table has it."""

    def reached(case, good, trials):
        if request.config.getoption("--every-fault"):
            former = TABLE.read_text(encoding="utf-8").splitlines()[4:] if TABLE.exists() else []
            rows = dict(line.strip("| ").split(" | ") for line in former) | {case: f"{good} of {trials}"}
            with written_whole(TABLE, encoding="utf-8") as file:
                file.write(HEAD + "".join(f"| {name} | {count} |\n" for name, count in rows.items()))
        assert good == trials, case

    return reached


@pytest.fixture(scope="module")
def trials(request):
    """How many of a fault: few, or many with --every-fault."""
    return lambda few, many: many if request.config.getoption("--every-fault") else few


def run(command, *arguments):
    return cli.main([command, *MOONS, *QUIET, *arguments])


def fit(*arguments, epochs=2):
    return run("fit", f"--trainer.max_epochs={epochs}", *arguments)


def started(*arguments, **options):
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **{"env": ENVIRONMENT, **pipes, **options})


def last_of(command):
    return Path(command.trainer.log_dir) / "checkpoints/last.ckpt"


def refusal(call, capsys):
    """The one line with which it is refused."""
    status = 1  # of what is raised in here
    try:
        call()
    except (ValueError, OSError) as error:
        said = str(error)
    except SystemExit as end:
        status = end.code
        said = capsys.readouterr().err.strip().splitlines()[-1]
    else:
        pytest.fail("it was taken")
    assert status == 1
    assert "\n" not in said
    return said


# Killed.


@pytest.mark.parametrize(("what", "few", "many"), [("checkpoint", 10, 200), ("predictions", 5, 100)])
def test_a_process_killed_while_it_writes(trials, reached, what, few, many):
    shared = Path("/dev/shm")  # another filesystem
    command = [sys.executable, str(ROOT / "tests/kill_writers.py"), what, str(trials(few, many))]
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as elsewhere:
        environment = {**ENVIRONMENT, "TMPDIR": elsewhere}
        out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found = json.loads(out)
    reached(f"kill -9 while writing {what}: the newest is whole", found["whole"], found["trials"])
    reached(f"… and after the next start nothing unfinished is left ({what})", found["clean"], found["trials"])
    assert found["elsewhere"] == []


def test_a_fit_killed_while_it_trains_goes_on(trials, reached):
    rng, good, number = random.Random(1), 0, trials(1, 10)
    for trial in range(number):
        name = f"--trainer.logger.name={trial}"
        process = started(
            "fit", *MOONS, *QUIET, name, "--trainer.max_epochs=100000", "--early_stopping.patience=100000"
        )
        last = Path(f"runs/{trial}/version_0/checkpoints/last.ckpt")
        while not last.exists():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.communicate()
        checkpoint = read_checkpoint(last)
        read_checkpoint(last.with_name("best.ckpt"))
        command = run("fit", name, f"--trainer.max_epochs={checkpoint['epoch'] + 2}", "--ckpt_path", str(last))
        good += command.trainer.global_step > checkpoint["global_step"] and not list(Path().rglob("*.part"))
    reached("kill -9 while a fit trains: both checkpoints read, it goes on, nothing unfinished is left", good, number)


def test_a_process_that_still_writes_keeps_its_file(tmp_path):
    Path("killed.0123abcd.part").touch()  # before it was locked, just now
    with written_whole("mine") as file:
        assert [path.name for path in remove_unfinished([tmp_path])] == ["killed.0123abcd.part"]
        file.write("begun")
        file.flush()
        assert remove_unfinished([tmp_path]) == []
    Path("yours.part").touch()
    Path("mine.0123abcd.part").write_text("left by one that was killed")
    assert [path.name for path in remove_unfinished([tmp_path])] == ["mine.0123abcd.part"]
    assert sorted(os.listdir()) == ["mine", "yours.part"]


# Damaged.


def flipped(contents, rng):
    at = rng.randrange(8 * len(contents))
    changed = bytearray(contents)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


def zeroed(contents, rng):
    at = rng.randrange(len(contents) - 4096)
    return contents[:at] + bytes(4096) + contents[at + 4096 :]


DAMAGE = {
    "a flipped bit": flipped,
    "4,096 zeroed bytes": zeroed,
    "cut off": lambda contents, rng: contents[: rng.randrange(1, len(contents))],
    "empty": lambda contents, rng: b"",
    "text": lambda contents, rng: b"state_dict: {}\n",
    "zeros": lambda contents, rng: bytes(len(contents)),
    "appended to": lambda contents, rng: contents + b"\0",
}
ENTRIES = ("fit", "validate", "test", "predict")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused(trials, reached, capsys, damage):
    contents, rng = last_of(fit(epochs=1)).read_bytes(), random.Random(2)
    number = trials(20, 200) if damage in ("a flipped bit", "4,096 zeroed bytes", "cut off") else 1
    calls = {entry: partial(run, entry, "--ckpt_path", "bad.ckpt") for entry in ENTRIES}
    calls["load_from_checkpoint"] = partial(LitTwoLayer.load_from_checkpoint, "bad.ckpt")
    refused = 0
    for trial in range(number):
        Path("bad.ckpt").write_bytes(DAMAGE[damage](contents, rng))
        for entry, call in calls.items():
            if trial < trials(1, 10) or entry == "load_from_checkpoint":
                assert "bad.ckpt is damaged" in refusal(call, capsys)
        refused += 1
    reached(f"a checkpoint, {damage}: refused by fit, validate, test, predict, load_from_checkpoint", refused, number)


def test_no_bit_at_all_can_be_flipped_unseen(trials, reached):
    contents = last_of(fit(epochs=1)).read_bytes()
    assert what_is_damaged(contents) is None
    places = range(0, 8 * len(contents), trials(97, 1))
    seen = 0
    for at in places:
        changed = bytearray(contents)
        changed[at // 8] ^= 1 << at % 8
        seen += what_is_damaged(bytes(changed)) is not None
    reached("each bit of a checkpoint flipped in turn: noticed", seen, len(places))


def test_a_checkpoint_of_others_is_read_and_its_records_are_checked(tmp_path):
    plain = io.BytesIO()
    torch.save(torch.load(last_of(fit(epochs=1)), weights_only=True), plain)
    Path("plain.ckpt").write_bytes(plain.getvalue())
    assert LitTwoLayer.load_from_checkpoint("plain.ckpt").net.hidden_features == 16
    weights = plain.getvalue().index(b"data.pkl") + 200
    Path("bad.ckpt").write_bytes(plain.getvalue()[:weights] + b"?" + plain.getvalue()[weights + 1 :])
    with pytest.raises(ValueError, match=r"bad.ckpt is damaged or none: its record \S+data.pkl has another checksum"):
        read_checkpoint("bad.ckpt")


def test_what_the_console_says_of_a_damaged_checkpoint(trials, reached):
    contents, rng = last_of(fit(epochs=1)).read_bytes(), random.Random(3)
    kinds = trials(["a flipped bit"], ["a flipped bit", "cut off", "text"])
    entries = trials(["test"], ENTRIES)
    good = 0
    for damage in kinds:
        Path("bad.ckpt").write_bytes(DAMAGE[damage](contents, rng))
        processes = [started(entry, *MOONS, *QUIET, "--ckpt_path", "bad.ckpt") for entry in entries]
        for process in processes:
            out, _ = process.communicate()
            good += process.returncode == 1 and "bad.ckpt is damaged" in out.strip().splitlines()[-1]
    reached("… by the console script, with status 1 and a line that names it", good, len(kinds) * len(entries))


def test_a_damaged_library_of_the_kernel_is_noticed(trials, reached, tmp_path):
    if isinstance(library.load(), str):
        pytest.skip("needs the CPU kernel")
    folder = shutil.copytree(Path(library.__file__).parent, tmp_path / "kernels")
    path, rng = folder / f"built/cpu-{library.cpu_level()}.so", random.Random(4)
    contents, number = path.read_bytes(), trials(5, 60)
    for trial in range(number):
        damage = list(DAMAGE)[trial % len(DAMAGE)]
        path.write_bytes(DAMAGE[damage](contents, rng))
        with pytest.raises(RuntimeError, match="is not the file that was built; install the package again"):
            library._load(folder)
    reached("a damaged library of the kernel: noticed before it is loaded", number, number)


# A checkpoint is data.


class Payload:
    """Would leave a file, if a pickle of it ran."""

    def __reduce__(self):
        return (os.mkdir, ("it_ran",))


def changed(path, **hyper_parameters):
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"] |= hyper_parameters
    torch.save(checkpoint, "changed.ckpt")
    return "changed.ckpt"


ADDRESSES = ["http://127.0.0.1:9/a.ckpt", "https://example.org/a.ckpt", "s3://a/b.ckpt", "file:///a.ckpt", "memory://a"]


def test_only_local_files_are_loaded(reached, capsys):
    model = last_of(fit(epochs=1))
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False)
    refused = 0
    for address in ADDRESSES:
        for entry in ENTRIES:
            said = refusal(partial(run, entry, "--ckpt_path", address), capsys)
            refused += "must be a file" in said and address in said
        for call in (
            partial(LitTwoLayer.load_from_checkpoint, address),
            partial(trainer.fit, LitTwoLayer(2, 3, 1), data.Moons(), ckpt_path=address),
            partial(trainer.test, LitTwoLayer(2, 3, 1), data.Moons(), ckpt_path=address),
        ):
            refused += "must be a local file, got the address" in refusal(call, capsys)
    reached("an address in the place of a checkpoint: refused", refused, 7 * len(ADDRESSES))
    for call in (
        partial(LitTwoLayer.load_from_checkpoint, model),
        partial(trainer.test, LitTwoLayer(2, 16, 1), data.Moons(), ckpt_path=model),
    ):
        assert "weights_only must be True" in refusal(partial(call, weights_only=False), capsys)


@pytest.mark.parametrize("where", ["all", "a weight", "hyper_parameters"])
def test_nothing_in_a_checkpoint_is_run(capsys, where):
    checkpoint = torch.load(last_of(fit(epochs=1)), weights_only=True)
    if where == "all":
        Path("bad.ckpt").write_bytes(pickle.dumps(Payload()))
    else:
        part = checkpoint["state_dict" if where == "a weight" else where]
        part["net.W1" if where == "a weight" else "activation"] = Payload()
        torch.save(checkpoint, "bad.ckpt")
    calls = [partial(run, entry, "--ckpt_path", "bad.ckpt") for entry in ENTRIES]
    for call in (*calls, partial(LitTwoLayer.load_from_checkpoint, "bad.ckpt")):
        assert "bad.ckpt" in refusal(call, capsys)
    assert not Path("it_ran").exists()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("hidden_features", 10**9, "W1 must have shape (1000000000, 2), got (16, 2)"),
        ("hidden_features", "16", "hidden_features must be int, got '16'"),
        ("hidden_features", True, "hidden_features must be int, got True"),
        ("in_features", -2, "in_features must be at least 1, got -2"),
        ("activation", "os.system", "activation must be one of"),
        ("activation", {"class_path": "os.system"}, "activation must be str"),
        ("task", "none", "task must be one of"),
        ("class_weight", ["1", "2"], "class_weight must be list or tuple or dict or str or None of numbers"),
        ("class_weight", [1.0, float("nan")], "class_weight"),
        ("label_smoothing", float("nan"), "label_smoothing must be"),
        ("standardize", "yes", "standardize must be bool, got 'yes'"),
    ],
)
def test_hyperparameters_are_checked_as_those_of_the_command_line(capsys, option, value, said):
    path = changed(last_of(fit(epochs=1)), **{option: value})
    for call in (partial(run, "test", "--ckpt_path", path), partial(LitTwoLayer.load_from_checkpoint, path)):
        found = refusal(call, capsys)
        assert "changed.ckpt" in found
        assert said in found


def test_nothing_but_options_of_the_network_is_taken():
    there = {"class_path": "os.mkdir", "init_args": {"path": "it_ran"}}
    path = changed(
        last_of(fit(epochs=1)),
        optimizer=there, lr_scheduler=there, steps_per_call="x", backward="autograd",
        _instantiator="lightning.pytorch.cli.instantiate_module", _class_path="os.mkdir",
    )  # fmt: skip
    for model in (run("test", "--ckpt_path", path).model, LitTwoLayer.load_from_checkpoint(path)):
        assert model.net.backward == "autograd"
        assert model.optimizer is not there
        assert model.lr_scheduler is None
    assert not Path("it_ran").exists()


class Own(LitTwoLayer):
    def __init__(self, width: int = 3, note: object = None) -> None:
        super().__init__(2, width, 1)
        self.save_hyperparameters()


def test_a_subclass_has_options_of_its_own(capsys):
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.fit(Own(5, {"of": [1, 2.0, None]}), data.Moons())
    trainer.save_checkpoint("own.ckpt")
    loaded = Own.load_from_checkpoint("own.ckpt")
    assert (loaded.net.hidden_features, loaded.hparams.note) == (5, {"of": [1, 2.0, None]})
    assert "note must be plain data" in refusal(
        partial(Own.load_from_checkpoint, changed("own.ckpt", note=torch.ones(2))), capsys
    )


# Signals.


class Signalled(torch.optim.Adam):
    """Sends its process a signal, twice, in a certain step."""

    at: tuple[int, int] | None = None
    steps = 0

    def step(self, *args, **kwargs):
        type(self).steps += 1
        if type(self).at is not None and type(self).at[0] == type(self).steps:
            os.kill(os.getpid(), type(self).at[1])
            os.kill(os.getpid(), type(self).at[1])
        return super().step(*args, **kwargs)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--model.steps_per_call=3"],
        ["--model.steps_per_call=null", "--trainer.val_check_interval=3"],
        ["--model.lr_scheduler=ReduceLROnPlateau", "--model.lr_scheduler.patience=0"],
    ],
    ids=["whole epochs", "blocks of three", "single steps and validations between", "a plateau"],
)
def test_a_signal_leaves_a_checkpoint_from_which_the_run_goes_on(trials, reached, options, caplog):
    optimizer = [f"--model.optimizer={__name__}.Signalled", "--model.optimizer.lr=0.01"]
    caplog.set_level("INFO")

    def fitted(at, *more):
        Signalled.at, Signalled.steps = at, 0
        return fit(*options, *optimizer, *more, epochs=3)  # of eleven steps

    whole = fitted(None)
    expected = read_checkpoint(last_of(whole))
    assert expected["global_step"] == 33  # though the last validation may have been before
    best = whole.trainer.checkpoint_callback.best_model_score
    rows = validations(last_of(whole))
    steps = trials([5, 11, 32], range(1, 33))
    for i, step in enumerate(steps):
        number = (signal.SIGTERM, signal.SIGINT)[i % 2]
        caplog.clear()
        with pytest.raises(SystemExit) as end:
            fitted((step, number))
        assert end.value.code == 128 + number
        (said,) = [record.getMessage() for record in caplog.records if "this goes on" in record.getMessage()]
        again = said.partition("this goes on: twolayer fit ")[2].split()
        path = Path(again[-1])
        assert read_checkpoint(path)["global_step"] in range(step, step + 11)
        Signalled.at = None
        command = cli.main(["fit", *again])
        found = read_checkpoint(path)
        assert_close(found["state_dict"], expected["state_dict"], rtol=0, atol=0)
        assert_close(found["optimizer_states"], expected["optimizer_states"], rtol=0, atol=0)
        assert command.trainer.checkpoint_callback.best_model_score == best
        assert validations(path) == rows
    chosen = "".join(f", {option}" for option in options)
    case = f"SIGTERM or SIGINT, twice, in a step{chosen}: status 143, 130; bitwise the same"
    reached(case, len(steps), len(steps))


def validations(checkpoint):
    with (checkpoint.parents[1] / "metrics.csv").open() as file:
        return [(row["step"], row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]


def test_a_signal_while_the_process_ends_is_ignored():
    program = """
import atexit, os, signal
from twolayer.training.signals import Signals
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
with Signals(["twolayer"], to_the_end=True):
    os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_a_signal_ends_a_process_at_whatever_moment(trials, reached):
    rng, good, number = random.Random(5), 0, trials(2, 12)
    for trial in range(number):
        signalled = (signal.SIGTERM, signal.SIGINT)[trial % 2]
        name = f"--trainer.logger.name={trial}"
        process = started(
            "fit", *MOONS, *QUIET, name, "--trainer.max_epochs=100000", "--early_stopping.patience=100000"
        )
        said = []
        for line in process.stdout:  # from when on it listens
            said.append(line)
            if "Seed set to" in line:
                break
        time.sleep(rng.uniform(0, 3))
        process.send_signal(signalled)
        time.sleep(rng.uniform(0, 0.01))
        process.send_signal(signalled)
        said = "".join([*said, process.communicate()[0]])
        checkpoint = Path(f"runs/{trial}/version_0/checkpoints/last.ckpt")
        named = (f"after step {read_checkpoint(checkpoint)['global_step']}," in said) if checkpoint.exists() else True
        good += process.returncode == 128 + signalled and said.count("this goes on: ") == 1 and named
        assert "Traceback" not in said
    reached("SIGTERM or SIGINT, twice, while starting or training: status 143, 130, and one line", good, number)


# Disks that are full, folders that cannot be written to.


def test_a_quota_leaves_the_former_checkpoint(reached):
    checkpoints, path = LocalCheckpointIO(), Path("last.ckpt")
    checkpoints.save_checkpoint({"state_dict": {"W": torch.ones(10)}}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"nothing is written: '.*last.ckpt'"):
            checkpoints.save_checkpoint({"state_dict": {"W": torch.ones(100_000)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir() == ["last.ckpt"]
    assert read_checkpoint(path)["state_dict"]["W"].sum() == 10
    reached("a quota: one line, the former checkpoint is intact", 1, 1)


def mounted(command, *options):
    """Runs a shell command where ``runs`` is a filesystem of its own."""
    script = f"mkdir -p runs && mount -t tmpfs {' '.join(options)} none runs && {command}"
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_disk_that_cannot_be_written_to(trials, reached, kind):
    if shutil.which("unshare") is None or mounted("true").returncode:
        pytest.skip("needs to mount a filesystem")
    number, good = trials(1, 3), 0
    for trial in range(number):
        sizes = f"-o size={64 + 4 * trial}k" if kind == "full" else "-o ro"
        train = f"{sys.executable} {ROOT}/train.py fit {' '.join([*MOONS, *QUIET])} --trainer.max_epochs=100000"
        after = f"status=$?; cp -r runs seen{trial}; exit $status"
        done = mounted(f"{{ {train} --early_stopping.patience=100000; {after}; }}", sizes)
        line = (done.stdout + done.stderr).strip().splitlines()[-1]
        said = {"full": "No space left on device", "read-only": "Read-only file system"}[kind]
        good += done.returncode == 1 and said in line and not list(Path(f"seen{trial}").rglob("*.part"))
        for path in Path(f"seen{trial}").rglob("*.ckpt"):
            read_checkpoint(path)
        assert kind == "read-only" or list(Path(f"seen{trial}").rglob("last.ckpt"))
    reached(f"a {kind} disk: status 1, a line that says so, the checkpoints read", good, number)


# A run has one folder and one table.


START = """
import os, sys, time
from lightning.pytorch.loggers import CSVLogger
from twolayer.training.logs import RunLogger
for trial in range(int(sys.argv[1])):
    reading, writing = os.pipe()
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            os.close(writing)
            os.read(reading, 1)  # returns for both at once, when the other end is closed
            RunLogger.like(CSVLogger("runs", name=str(trial))).version
            os._exit(0)
        children.append(child)
    os.close(writing)
    os.close(reading)
    for child in children:
        os.waitpid(child, 0)
"""


def test_two_runs_that_start_at_once_have_a_folder_each(trials, reached):
    number = trials(10, 50)
    subprocess.run([sys.executable, "-c", START, str(number)], env=ENVIRONMENT, check=True)
    folders = [sorted(os.listdir(f"runs/{trial}")) for trial in range(number)]
    reached(
        "two runs started at once: a folder each", sum(one == ["version_0", "version_1"] for one in folders), number
    )


@pytest.mark.parametrize("version", ["given", "not given", "another"])
def test_the_rows_of_a_resumed_run_are_appended(version):
    options = ["--trainer.logger.version=0"] if version == "given" else []
    whole = Path(fit("--trainer.logger.name=whole", epochs=4).trainer.log_dir)
    half = fit(*options, epochs=2)
    checkpoint = last_of(half)
    if version == "another":
        options = ["--trainer.logger.version=7"]
    with (checkpoint.parents[1] / "metrics.csv").open("a") as file:
        file.write("2,30,")  # of a process that was killed
    resumed = fit(*options, "--ckpt_path", str(checkpoint), epochs=4)
    folder = Path(resumed.trainer.log_dir)
    assert folder.name == ("version_7" if version == "another" else "version_0")
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    for command in ("validate", "test"):
        run(
            command, f"--trainer.logger.version={folder.name[-1]}", "--ckpt_path", str(folder / "checkpoints/last.ckpt")
        )
    assert (folder / "metrics.csv").read_text().startswith((whole / "metrics.csv").read_text())
