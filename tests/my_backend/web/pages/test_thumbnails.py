"""Images are shown re-encoded."""

from testing.waiting import eventually
from tests.my_backend.conftest import Client
from tests.my_backend.fake_model import Script
from tests.my_backend.web.pages.page_text import HERE, page


def test_pictures_are_reencoded_and_only_for_cached_images(client: Client, script: Script) -> None:
    folder = client.backend.settings.cache_dir / "media" / "contents"
    page(client, f"{HERE}/look")  # makes the folder
    digest = "cd" * 32
    (folder / digest).write_bytes(b"<script>alert(1)</script>")
    path = f"{HERE}/images/{digest}.jpg"
    assert eventually(lambda: client.http.get(path).status_code == 200)

    answer = client.http.get(path)

    large = client.http.get(path.replace("images", "pictures"))
    assert (answer.data, large.data) == (b"thumbnail of 25 bytes", b"picture of 25 bytes")
    for one in (answer, large):
        assert one.mimetype == "image/jpeg"
        assert one.headers["X-Content-Type-Options"] == "nosniff"
    for unknown in ("ef" * 32, "..%2f..%2fsecret", "x" * 64):
        assert client.http.get(f"{HERE}/images/{unknown}.jpg").status_code == 404
        assert client.http.get(f"{HERE}/pictures/{unknown}.jpg").status_code == 404
