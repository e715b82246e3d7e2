"""Who is let in, what may come, and what a browser is told about it."""

import json

import pytest

from fewmask.web.gate import MAX_BODY, MAX_UPLOAD, Rules

TOKEN = "a-token-of-the-tests"
OWN = "http://127.0.0.1:8000"


def test_nothing_is_shown_without_the_token(make_client):
    for client in (make_client(), make_client(authorization="Bearer wrong"),
                   make_client(cookie="fewmask-8000=wrong")):  # fmt: skip
        for path in ("/", "/runs", "/api/runs", "/openapi.json", "/static/app.css", "/nothing"):
            answer = client.get(path, follow_redirects=False)
            assert answer.status_code == 401
            assert TOKEN not in answer.text
    page = make_client(accept="text/html").get("/runs")
    assert (page.status_code, "fewmask ui" in page.text) == (401, True)


def test_the_printed_address_sets_a_cookie_and_leaves_the_token_out(make_client):
    client = make_client(accept="text/html")
    answer = client.get(f"/runs?a=1&token={TOKEN}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs?a=1")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/runs").status_code == 200
    assert make_client().get("/runs?token=wrong").status_code == 401


def test_a_token_cannot_send_the_browser_elsewhere(make_client):
    answer = make_client().get(f"http://127.0.0.1:8000//evil.test/?token={TOKEN}",
                               follow_redirects=False)  # fmt: skip
    assert answer.headers["location"] == "/evil.test/"


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:8000", "127.0.0.1.evil.test", "localhost@evil.test", "8.8.8.8",
             "127.0.0.1:8000.evil.test", "[::1", "localhost:x", "0.0.0.0:8000"]
)  # fmt: skip
def test_a_foreign_host_is_refused_with_the_token_too(make_client, host):
    client = make_client(authorization=f"Bearer {TOKEN}", host=host)
    assert client.get("/api/runs").status_code == 403


def test_a_server_for_others_knows_its_name_and_addresses():
    rules = Rules(TOKEN, 8000, frozenset({"lab.example"}), any_address=True)
    known = ["lab.example", "10.0.0.2:8000", "localhost:1", "[fe80::1]:8000"]
    assert [rules.knows_host(host) for host in [*known, "evil.test"]] == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("origin", "status"),
    [(OWN, 404), ("null", 403), ("http://evil.test", 403), ("https://127.0.0.1:8000", 403),
     ("http://127.0.0.1:9", 403), ("http://127.0.0.1", 403), ("", 403), (None, 403)],
)  # fmt: skip
def test_what_changes_something_comes_from_a_page_of_this_server(make_client, origin, status):
    client = make_client(cookie=f"fewmask-8000={TOKEN}")
    headers = {} if origin is None else {"origin": origin}
    assert client.post("/api/runs/0/stop", headers=headers).status_code == status


def test_a_program_sends_no_origin_and_is_let_in_by_its_header(make_client):
    client = make_client(authorization=f"Bearer {TOKEN}")
    assert client.post("/api/runs/0/stop").status_code == 404
    assert client.post("/api/runs/0/stop", headers={"origin": "null"}).status_code == 403


def test_every_answer_forbids_scripts_frames_and_guesses(client, make_client, run_id):
    for answer in (client.get("/runs"), client.get("/api/runs"), client.get("/nothing"),
                   make_client().get("/runs"), client.get("/static/app.css")):  # fmt: skip
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert "sandbox" in client.get(f"/runs/{run_id}/report").headers["content-security-policy"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client):
    def never():
        raise AssertionError("the body was read")
        yield b""

    for path, limit in (("/api/runs/0/stop", MAX_BODY), ("/api/tries", MAX_UPLOAD)):
        answer = client.post(path, content=never(), headers={"content-length": str(limit + 1)})
        assert answer.status_code == 413
        assert answer.json()["problems"][0]["code"] == "BODY-TOO-LARGE"
    assert client.post("/api/runs", headers={"content-length": "x"}, content=b"").status_code == 400


def test_the_api_is_described_and_needs_no_other_server(client):
    described = client.get("/openapi.json").json()
    assert "/api/runs/{name}" in described["paths"]
    assert client.get("/docs").status_code == 404
    assert not [path for path in described["paths"] if not path.startswith("/api/")]


def test_no_page_asks_another_server_or_has_style_or_script_inside(client, run_id):
    for path in ("/runs", f"/runs/{run_id}"):
        page = client.get(path).text
        assert "http://" not in page.replace(OWN, "")
        assert "https://" not in page
        assert "<style" not in page
        assert " style=" not in page
        assert not [part for part in page.split("<script")[1:] if "src=" not in part[:40]]


def test_names_of_runs_cannot_become_markup(desk, runs_root, client, run_id):
    evil = runs_root / '"><img src=x onerror=1>'
    evil.mkdir()
    record = {"pipeline": "tags", "preset": "<b>", "data": "</pre><script>", "settings": {}}
    (evil / "run.yaml").write_text(json.dumps(record))
    (evil / "status.json").write_text(
        json.dumps({"state": "failed", "error": "<script>1</script>"})
    )
    try:
        pages = [client.get("/runs").text]
        pages += [client.get(f"/runs/{run['id']}").text for run in client.get("/api/runs").json()]
        assert len(pages) == 3
        for page in pages:
            assert "<img src=x" not in page
            assert "<script>" not in page
    finally:
        for path in evil.iterdir():
            path.unlink()
        evil.rmdir()


@pytest.mark.parametrize("flags", [["--host", "0.0.0.0"], ["--host", "::"], ["--host", "10.1.2.3"]])
def test_others_can_connect_only_with_a_secret(fewmask, tmp_path, flags):
    result = fewmask("ui", tmp_path / "runs", "--no-browser", *flags)
    assert result.code == 15
    assert "--auth" in result.err
    assert not (tmp_path / "runs").exists()


def test_a_short_secret_and_a_missing_folder_are_refused(fewmask, tmp_path):
    assert fewmask("ui", tmp_path, "--no-browser", "--auth", "short").code == 2
    assert fewmask("ui", tmp_path, "--no-browser", "--data", tmp_path / "none").code == 2
