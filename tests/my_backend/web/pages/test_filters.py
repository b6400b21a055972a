"""Commands in messages are shown as code."""

from my_backend.web.pages.filters import code
from tests.my_backend.conftest import Client
from tests.my_backend.fake_model import Script
from tests.my_backend.web.pages.page_text import HERE, page


def test_what_is_to_be_typed_is_shown_as_code() -> None:
    assert code("start `a <b>` & `c`") == "start <code>a &lt;b&gt;</code> &amp; <code>c</code>"
    assert code("an `open <end") == "an `open &lt;end"


def test_commands_in_messages_of_the_model_class_are_shown_as_code(client: Client, script: Script) -> None:
    script.set(output={name: f"{name}: run `x <{name}>`" for name in ("summary", "warning", "held_back")})
    version = client.ended(client.submit_training()).result["versions"][-1]
    shown = page(client, f"{HERE}/versions/{version}")
    for name in ("summary", "warning", "held_back"):
        assert f"{name}: run <code>x &lt;{name}&gt;</code>" in shown
    assert "<code>x &lt;held_back&gt;</code>" in page(client, f"{HERE}/versions")

    script.set(fit_says="no `fit`")
    client.ended(client.submit_training())
    assert "no <code>fit</code>" in page(client, "/")
    assert page(client).count("no <code>fit</code>") == 2, "above, and in the list of training runs"
