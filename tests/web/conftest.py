"""A server's app on a copy of a finished run, spoken to without a socket."""

import shutil

import pytest

TOKEN = "a-token-of-the-tests"
PORT = 8000
ORIGIN = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="session")
def runs_root(tiny_run, tmp_path_factory):
    """A folder of runs with one that is finished."""
    root = tmp_path_factory.mktemp("ui") / "runs"
    shutil.copytree(tiny_run.path, root / "first")
    return root


@pytest.fixture(scope="session")
def desk(runs_root, small_data):
    from fewmask.web.app import new_desk

    desk = new_desk(runs_root, (small_data,))
    yield desk
    desk.store.close()


@pytest.fixture(scope="session")
def make_client(desk):
    """``make_client(**headers)``: a client whose requests carry these headers and no others."""
    from starlette.testclient import TestClient

    from fewmask.web.app import create_app
    from fewmask.web.gate import Rules

    app = create_app(desk, Rules(TOKEN, PORT))

    def make(**headers):
        client = TestClient(app, base_url=ORIGIN, raise_server_exceptions=False)
        client.headers.update({name.replace("_", "-"): text for name, text in headers.items()})
        return client

    return make


@pytest.fixture(scope="session")
def client(make_client):
    """One that is let in, as a program would be."""
    return make_client(authorization=f"Bearer {TOKEN}")


@pytest.fixture(scope="session")
def run_id(client):
    (run,) = [run["id"] for run in client.get("/api/runs").json() if run["name"] == "first"]
    return run
