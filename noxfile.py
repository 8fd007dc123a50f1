"""What developers and CI run; ``nox -l`` lists it, the first lines say what for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "typing", "tests"]
nox.options.error_on_missing_interpreters = True
# Otherwise each of the many processes that tests start compiles what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Modules are compiled when they are imported. Compiling all of them takes pip half the
# time of an installation.
os.environ["PIP_COMPILE"] = "no"

ROOT = Path(__file__).parent
# The browser tests know this version's parts; a newer one is tried on purpose.
PREBID = "prebid.js@11.36.0"
# Every extra that the tests and the type checkers look into.
WITH_EXTRAS = ".[arrow,cli,django,fastapi,flask,frames,metrics,otel,phone,starlette]"
# Browser, documentation, web servers, stores and Spark have sessions of their own.
PYTEST = (
    *("pytest", "-q", "--ignore=tests/browser", "--ignore=tests/docs"),
    *("--ignore=tests/spark", "--ignore=tests/stores", "--ignore=tests/web"),
)
# What a worker has no more time for, another one takes.
WORKERS = ("-n", "auto", "--dist", "worksteal")
# The first test of these waits until Chromium or a JVM has started.
PATIENT = ("--timeout", "300")
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
SUPPORTED = nox.project.python_versions(PYPROJECT)  # the classifiers
# What the files of all tests need, several times over.
MEMORY_BYTES = 4 * 1024**3
# The first is the aim, and a warning; beyond the second the session fails.
WISHED_WHEEL_BYTES = 400_000
WHEEL_BYTES = 600_000


def find_pythons() -> dict[str, str]:
    """Find the supported Pythons that start, by version.

    If there is none, the Python that runs nox is used, so that no session passes by
    running nothing.
    """
    starting = {version: _find_python(version) for version in SUPPORTED}
    found = {version: path for version, path in starting.items() if path}
    if not found and sys.version_info >= (3, 11):
        found = {"{}.{}".format(*sys.version_info): sys.executable}
    if not found:
        raise SystemExit(f"No Python of {', '.join(SUPPORTED)} starts on this machine.")
    return found


def _find_python(version: str) -> str | None:
    """Find a Python of *version* that starts.

    The distribution's own build comes first. It leaves the TLS settings to OpenSSL, and
    the builds of pyenv and python.org do not: where both kinds are installed, as in CI,
    each is tested. A pyenv shim may stand for a version that is not switched on, so the
    folders of pyenv's versions are searched as well.
    """
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [f"/usr/bin/{name}", shutil.which(name)]
    candidates += sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/{name}")))
    return next((one for one in candidates if _starts(one, version)), None)


def _starts(python: str | None, version: str) -> bool:
    """Tell whether *python* runs and is of *version*."""
    if python is None:
        return False
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        run = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return run.returncode == 0 and run.stdout.strip() == version


FOUND = find_pythons()
# By path: of a version alone, nox would take the build that runs it.
PYTHONS = [nox.param(path, id=version) for version, path in FOUND.items()]
FIRST = next(iter(FOUND.values()))


def group(name: str) -> list[str]:
    """List the requirements of a dependency group."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


@nox.session
def demo(session: nox.Session) -> None:
    """Run the main job: map a customer file against the embedded operator."""
    session.install("-q", ".[cli]")
    target = Path(session.create_tmp()) / "mapped.csv"
    session.run(
        *("uid2", "map", "examples/customers.csv", str(target)),
        *("--sandbox", "--force"),
        silent=False,
    )


@nox.session
def site(session: nox.Session) -> None:
    """Serve the example site at http://127.0.0.1:8000/ until Ctrl-C."""
    session.install("-q", ".[fastapi]", *group("site"))
    session.run("python", "-m", "examples.publisher_site", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and the direction of imports."""
    session.install("-q", *group("lint"))
    # import-linter reads the imports of what is installed.
    session.install("-q", ".[cli]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types: mypy strict, and what pyright sees of the public names."""
    session.install("-q", WITH_EXTRAS, *group("typing"))
    session.run("mypy")
    session.run("basedpyright")
    session.run("basedpyright", "--verifytypes", "uid2_async", "--ignoreexternal")


@nox.session
@nox.parametrize("python", PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on every supported Python that starts here."""
    _log_pythons(session)
    session.install("-q", WITH_EXTRAS, *group("tests"))
    _compile(session)
    # The first Python does everything. The others show that its version is no matter.
    if session.python == FIRST:
        session.run(*PYTEST, *WORKERS, *session.posargs, env={"UID2_KILLS": "4"})
    else:
        env = {"UID2_EXAMPLES": "25", **_files_in_memory()}
        session.run(*PYTEST, *WORKERS, "-m", "not once", *session.posargs, env=env)


def _compile(session: nox.Session) -> None:
    """Compile what is installed, on all cores: tests limit how long some calls take."""
    line = ("python", "-m", "compileall", "-q", "-j", "0", session.virtualenv.location)
    # Some packages have templates that look like modules.
    session.run(*line, silent=True, success_codes=[0, 1])


def _files_in_memory() -> dict[str, str]:
    """Let the files of tests be in memory if there is room: no test waits for fsync."""
    memory = Path("/dev/shm")  # noqa: S108 - pytest makes a private folder in it
    if memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_BYTES:
        return {"PYTEST_DEBUG_TEMPROOT": str(memory)}
    return {}


def _log_pythons(session: nox.Session) -> None:
    """Say which of the supported Pythons are tested here, and which were not found."""
    here = ", ".join(f"{version} ({path})" for version, path in FOUND.items())
    missing = ", ".join(one for one in SUPPORTED if one not in FOUND) or "none"
    session.log(f"Pythons found: {here}. Not found, so not tested: {missing}.")


@nox.session
def kills(session: nox.Session) -> None:
    """Kill a job at 50 random moments, or as many as an argument says."""
    session.install("-q", WITH_EXTRAS, *group("tests"))
    env = {"UID2_KILLS": session.posargs[0] if session.posargs else "50"}
    session.run("pytest", "-q", "tests/bulk/test_kills.py", env=env)


@nox.session
def guards(session: nox.Session) -> None:
    """Switch off each guard of the library in turn: a named row must fail."""
    session.install("-q", WITH_EXTRAS, *group("tests"))
    session.run("python", "-m", "tests.guards", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz what reads foreign bytes, for a minute or as many as an argument says."""
    session.install("-q", WITH_EXTRAS, *group("tests"))
    # Not every Python and machine has a wheel; the fuzzer does without.
    session.install("-q", *group("fuzz"), success_codes=[0, 1, 2])
    session.run("python", "-m", "tests.fuzz", *(session.posargs or ["1"]))


@nox.session
def soak(session: nox.Session) -> None:
    """Work in faults, for two minutes or as many as an argument says."""
    session.install("-q", WITH_EXTRAS, *group("tests"))
    session.run("python", "-m", "tests.soak", *(session.posargs or ["2"]))


@nox.session
def audit(session: nox.Session) -> None:
    """Look up what is installed in the database of known vulnerabilities."""
    session.install("-q", WITH_EXTRAS)
    frozen = session.run(
        *("python", "-m", "pip", "freeze", "--exclude", "uid2-async"), silent=True
    )
    pinned = Path(session.create_tmp()) / "installed.txt"
    pinned.write_text(str(frozen), encoding="utf-8")
    session.install("-q", "pip-audit")
    # Strict: what cannot be looked up is no pass.
    session.run(
        *("pip-audit", "--strict", "--no-deps", "--disable-pip", "-r", str(pinned)),
        *("--progress-spinner", "off"),
    )


@nox.session(python=FIRST)
def tests_min(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml allows."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["arrow"] + extras["cli"]
    for name in ("django", "fastapi", "flask", "phone", "starlette"):
        wanted += extras[name]
    # The versions of the SDK go with those of the API.
    wanted += [*extras["otel"], "opentelemetry-sdk>=1.30"]
    session.install("-q", *(re.sub(r">=", "==", one) for one in wanted))
    # The test client of that Starlette knows no httpx2 yet.
    session.install("-q", *group("tests"), "httpx")
    session.install("-q", "--no-deps", ".")
    session.run(*PYTEST, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure branch coverage: all of the protocol, nearly all of the rest."""
    groups = (*group("coverage"), *group("differential"))
    session.install("-q", "-e", WITH_EXTRAS, *groups)
    session.run("coverage", "erase")
    # pytest loads our own plugin before pytest-cov would begin to measure.
    session.run("coverage", "run", "-m", *PYTEST, *session.posargs)
    session.run("coverage", "combine", "-q")
    complete = "uid2_async/protocol/*,uid2_async/errors.py,uid2_async/retry.py"
    session.run("coverage", "report", f"--include={complete}", "--fail-under=100")
    session.run("coverage", "report", f"--omit={complete}", "--fail-under=95")


@nox.session
def differential(session: nox.Session) -> None:
    """Hold the official SDK beside ours, and let it drive the embedded operator."""
    session.install("-q", WITH_EXTRAS, *group("tests"), *group("differential"))
    session.run("pytest", "-q", "-m", "differential", *session.posargs)


@nox.session
def spark(session: nox.Session) -> None:
    """Map DataFrames with Spark on this machine; needs Java 17."""
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        session.error("Java is missing: Spark needs 17 or newer, by PATH or JAVA_HOME.")
    # The newest Spark for which Iceberg has a release (tests/spark/conftest.py).
    # It has no wheel, and its 300 jars do not shrink when pip packs one.
    stored = "--config-settings=--build-option=--compression=stored"
    wanted = (".[arrow,cli,spark]", "pyspark~=4.1.0", *group("tests"))
    session.install("-q", stored, *wanted)
    session.run("pytest", "-q", *PATIENT, "tests/spark", *session.posargs)


@nox.session
def stores(session: nox.Session) -> None:
    """Map from and to S3 (moto's server), PostgreSQL and Delta tables."""
    _find_postgresql(session)
    extras = ".[arrow,azure,cli,gcs,lake,s3,sql]"
    session.install("-q", extras, *group("stores"))
    run = ("pytest", "-q", "-rs", *PATIENT, "-n", "2", "tests/stores")
    session.run(*run, *session.posargs, env={"PATH": _add_azurite(session)})


def _add_azurite(session: nox.Session) -> str:
    """Install the emulator of Azure's store if npm can; return PATH with it."""
    folder = Path(session.create_tmp())
    if shutil.which("npm"):
        line = ("npm", "install", "--silent", "--prefix", str(folder), "azurite")
        # Without it its test is skipped, and says so.
        session.run(*line, external=True, success_codes=[0, 1])
    programs = [*session.bin_paths, str(folder / "node_modules" / ".bin")]
    return os.pathsep.join([*programs, os.environ["PATH"]])


def _find_postgresql(session: nox.Session) -> None:
    """Find PostgreSQL's server; as root on Debian, install it first."""
    folder = Path("/usr/lib/postgresql")
    if not shutil.which("initdb") and not list(folder.glob("*/bin/initdb")):
        if shutil.which("apt-get") and os.geteuid() == 0:
            _install_debian(session, "postgresql")
        if not list(folder.glob("*/bin/initdb")):
            session.error(
                "initdb is not on PATH. Install PostgreSQL (Debian: apt-get install "
                "postgresql), or run this as root there."
            )


def _install_debian(session: nox.Session, *packages: str) -> None:
    """Install packages of the distribution, one session at a time."""
    alone = ("flock", str(session.cache_dir / "apt.lock"))
    quiet = (*alone, "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0")
    session.run(*quiet, "update", external=True, silent=True)
    session.run(
        *(*quiet, "install", "-y", "--no-install-recommends", *packages),
        env={"DEBIAN_FRONTEND": "noninteractive"},
        external=True,
        silent=True,
    )


@nox.session
def browser(session: nox.Session) -> None:
    """Visit example site and sandbox console, and run Prebid.js, in Chromium."""
    names = {"CHROMIUM": "chromium", "CHROMEDRIVER": "chromedriver"}
    env = {variable: _find_browser(session, name) for variable, name in names.items()}
    env["PREBID_PACKAGE"] = str(_fetch_prebid(session))
    # The official SDK calls the sandbox whose console is visited.
    session.install("-q", WITH_EXTRAS, *group("browser"), *group("differential"))
    session.run(
        *("pytest", "-q", "-rs", *PATIENT, "tests/browser"), *session.posargs, env=env
    )


@nox.session
def web(session: nox.Session) -> None:
    """Run applications under gunicorn and uvicorn: logins at once, outages, the end."""
    session.install("-q", ".[django,fastapi,flask,starlette]", *group("web"))
    session.run("pytest", "-q", "-n", "2", "tests/web", *session.posargs)


def _find_browser(session: nox.Session, name: str) -> str:
    """Find one of Chromium's programs; as root on Debian, install it first."""
    if not shutil.which(name) and shutil.which("apt-get") and os.geteuid() == 0:
        _install_debian(session, "chromium", "chromium-driver", "fonts-liberation")
    path = shutil.which(name)
    if path is None:
        session.error(
            f"{name} is not on PATH. Install Chromium with its driver (Debian: "
            "apt-get install chromium chromium-driver), or run this as root there."
        )
    return path


def _fetch_prebid(session: nox.Session) -> Path:
    """Unpack npm's prebid.js, prebuilt as it is, into the session's own folder."""
    if shutil.which("npm") is None:
        session.error("npm is not on PATH: Prebid.js comes from its registry.")
    folder = Path(session.create_tmp()) / PREBID
    if not (folder / "package").exists():
        folder.mkdir(parents=True, exist_ok=True)
        npm = ("npm", "pack", "--silent", PREBID, "--pack-destination", str(folder))
        session.run(*npm, external=True, silent=True)
        # Not tarfile: its safe way is missing in Debian's Python 3.11.
        unpack = ("tar", "-xzf", str(next(folder.glob("*.tgz"))), "-C", str(folder))
        session.run(*unpack, external=True)
    return folder / "package"


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, and run what its pages show; or keep it in a folder."""
    session.install("-q", WITH_EXTRAS, *group("docs"))
    site = Path(session.posargs[0] if session.posargs else session.create_tmp())
    strict = ("-W", "-n", "-q", "-E", "--keep-going")
    session.run("sphinx-build", *strict, "docs", str(site))
    env = {"UID2_SITE": str(site.resolve())}
    # It says which of the languages of the snippets are not installed.
    session.run("pytest", "-q", "-rs", "-n", "auto", "tests/docs", env=env)


@nox.session
def live(session: nox.Session) -> None:
    """Run a small suite against the operator that the environment names."""
    session.install("-q", WITH_EXTRAS, *group("tests"))
    session.run("pytest", "-q", "-rs", "-m", "live", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure, as ratios between things that run in the same minute."""
    session.install("-q", ".[arrow,cli,frames,phone]", *group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build, and use the wheel where nothing else is installed."""
    session.install("-q", "build", "twine")
    dist = Path(session.create_tmp()) / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "-o", str(dist), silent=True)
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))
    wheel = next(dist.glob("*.whl"))
    _check_contents(session, wheel)
    with tempfile.TemporaryDirectory() as empty:
        session.run("python", "-m", "venv", empty)
        python = str(Path(empty) / "bin" / "python")
        session.run(python, "-m", "pip", "install", "-q", str(wheel), external=True)
        # Away from the checkout, whose folder would be imported instead.
        session.chdir(empty)
        code = "import uid2_async as u; [getattr(u, n) for n in u.__all__]; print(u)"
        session.run(python, "-W", "error", "-c", code, external=True)


def _check_contents(session: nox.Session, wheel: Path) -> None:
    """Refuse a wheel without type marker, with tests, or that is too large."""
    size = wheel.stat().st_size
    if size > WHEEL_BYTES:
        session.error(f"the wheel has {size:,} bytes, more than {WHEEL_BYTES:,}")
    if size > WISHED_WHEEL_BYTES:
        session.warn(f"the wheel has {size:,} bytes; {WISHED_WHEEL_BYTES:,} are wished")
    names = zipfile.ZipFile(wheel).namelist()
    if "uid2_async/py.typed" not in names:
        session.error("py.typed is not in the wheel")
    strangers = [n for n in names if not n.startswith(("uid2_async/", "uid2_async-"))]
    if strangers:
        session.error(f"the wheel holds {strangers}")
