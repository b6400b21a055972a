import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from image_classifier.settings import ClassifierSettings
from my_backend.settings import Settings, ignored_variables, misspelled_names, read_settings
from safe_http.redaction import redact
from tests.my_backend.conftest import MakeSettings

ROOT = Path(__file__).resolve().parents[2]


def test_password_in_single_quotes_is_read_as_the_docs_promise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    (line,) = re.findall(r"`(BASIC_AUTH_PASS='.*')`", page)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"BASIC_AUTH_USER=me\n{line}\n")

    assert read_settings().basic_auth == ("me", line.partition("=")[2].strip("'"))


@pytest.mark.parametrize(
    "line", ["BASIC_AUTH_PASS='pa${HOME}$$x #1'", "export  basic_auth_pass = 'pa${HOME}$$x #1' # own"]
)
def test_single_quotes_in_env_file_keep_a_value_with_braces(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"BASIC_AUTH_PASS='an earlier ${{HOME}}'\nBASIC_AUTH_USER=me\n{line}\n")

    assert read_settings().basic_auth == ("me", "pa${HOME}$$x #1")


def test_other_values_in_env_file_may_name_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTHER", "there")
    (tmp_path / ".env").write_text("CHOICES='${OTHER}'\nCHOICES=\"${OTHER}\"\nRQ_QUEUE_NAME=${OTHER}\n")

    settings = read_settings()

    assert (settings.choices, settings.rq_queue_name, ClassifierSettings().choices) == ("there", "there", "there")


def test_value_that_another_line_takes_over_keeps_its_braces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTHER", "there")
    (tmp_path / ".env").write_text(
        "SECRET='p${OTHER}'\nHERE=${OTHER}\nNOTHING=\nBASIC_AUTH_PASS=${SECRET}\n"
        "BASIC_AUTH_USER=${HERE}-${NONE:-none}${NOTHING}\n"
    )

    assert read_settings().basic_auth == ("there-none", "p${OTHER}")


def test_comments_in_env_file_are_no_misspelled_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    example = (ROOT / ".env.example").read_text("utf-8")
    (tmp_path / ".env").write_text(f"{example}\n  # PORTS=1\nexport\tEPOCH=5\n", "utf-8")

    assert misspelled_names(()) == {}
    assert misspelled_names(["EPOCHS"]) == {"EPOCH": "EPOCHS"}


def test_field_is_the_environment_variable_in_capitals(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "9191")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    monkeypatch.setenv("IMAGE_HOSTS", " Minio , images.internal:9000,")

    settings = make_settings()

    assert (settings.port, settings.log_level) == (9191, "DEBUG")
    assert settings.image_hosts == ("minio", "images.internal:9000")


def test_line_of_env_file_is_read_and_the_environment_goes_before_it(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("PORT=9191\nBATCH_SIZE=8\nRQ_QUEUE_NAME=file\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RQ_QUEUE_NAME", "environment")

    settings = read_settings()

    assert (settings.port, settings.rq_queue_name) == (9191, "environment")


@pytest.mark.parametrize("value", ["", " ", ","])
def test_image_hosts_may_be_empty(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("IMAGE_HOSTS", value)

    assert make_settings().image_hosts == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("RETRAIN_AFTER_ANNOTATIONS", "-1"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("LABEL_STUDIO_URL", "localhost:8080"),
        ("LABEL_STUDIO_URL", "http://"),
        ("REDIS_PORT", "0"),
        ("MODEL_DIR", "~no-such-user/data"),
        ("CACHE_DIR", "~no-such-user/cache"),
        ("LOG_FILE", "~no-such-user/log"),
        ("IMAGE_HOSTS", "http://minio:9000"),
        ("IMAGE_HOSTS", "minio,10.0.0.0/8"),
        ("IMAGE_HOSTS", "*.example.com"),
        ("IMAGE_HOSTS", ".example.com"),
        ("IMAGE_HOSTS", "minio nas"),
    ],
)
def test_bad_value_ends_with_its_name_and_the_value(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit) as ended:
        read_settings()

    message = str(ended.value)
    assert f"\n  {name}: " in message
    assert repr(value) in message


def test_all_bad_values_are_named_at_once(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "http")
    monkeypatch.setenv("LOG_FORMAT", "xml")

    with pytest.raises(SystemExit, match=r"(?s)PORT: .*LOG_FORMAT: "):
        read_settings()


def test_folders_are_absolute_and_know_the_home(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    settings = make_settings(model_dir=Path("models"), cache_dir=Path("~/cache"))

    assert (settings.model_dir, settings.cache_dir) == (tmp_path / "models", tmp_path / "cache")


def test_secrets_are_not_shown(make_settings: MakeSettings) -> None:
    settings = make_settings(label_studio_api_key="a-token", basic_auth_user="me", basic_auth_pass="a-password")

    assert "a-token" not in repr(settings) + str(settings)
    assert "a-password" not in repr(settings) + str(settings)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/services/T0123/a-token-of-the-webhook",
        "HTTPS://Hooks.example/services/T0123/a-token-of-the-webhook",
        "https://hooks.example/services/T0123/a-token-of-the-webhook?thread=5",
        "https://hooks.example/services/T0123/a-token-of-the-webhook#here",
    ],
)
def test_path_of_a_webhook_is_a_secret_however_it_is_quoted(make_settings: MakeSettings, url: str) -> None:
    make_settings(notify_url=url)
    assert redact("Cannot POST /services/T0123/a-token-of-the-webhook.") == "Cannot POST ***."
    assert redact(f"GET {url}") == "GET ***"


@pytest.mark.parametrize("value", ["examples.mlflow_registry", "a module:register", "module:", "module:one:two"])
def test_hook_that_is_no_function_of_a_module_is_refused(make_settings: MakeSettings, value: str) -> None:
    with pytest.raises(ValidationError, match="must be module:function, for example"):
        make_settings(published_hook=value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ""),
        ({"redis_host": "redis", "redis_port": 6380}, "redis://redis:6380/0"),
        ({"redis_host": "::1"}, "redis://[::1]:6379/0"),
        ({"redis_host": "[::1]"}, "redis://[::1]:6379/0"),
        ({"redis_url": "rediss://other/1", "redis_host": "redis"}, "rediss://other/1"),
    ],
)
def test_redis_is_named_by_url_or_by_host(make_settings: MakeSettings, given: dict[str, object], expected: str) -> None:
    assert make_settings(**given).redis == expected


@pytest.mark.parametrize(
    ("given", "trusted"),
    [
        ({"host": "127.0.0.1"}, True),
        ({"host": "localhost"}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "0.0.0.0", "basic_auth_user": "u", "basic_auth_pass": "p"}, True),
    ],
)
def test_setup_is_trusted_where_its_caller_is_known_or_local(
    make_settings: MakeSettings, given: dict[str, object], trusted: bool
) -> None:
    assert make_settings(**given).trusts_setup is trusted


def test_settings_cannot_be_changed(make_settings: MakeSettings) -> None:
    with pytest.raises(ValueError, match="frozen"):
        make_settings().port = 1  # type: ignore[misc]


def test_each_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


# --- as people paste them -----------------------------------------------------

VALUES = {
    "HOST": "0.0.0.0",
    "PORT": "9191",
    "MODEL_DIR": "/models",
    "LABEL_STUDIO_URL": "https://studio:8080",
    "LABEL_STUDIO_API_KEY": "0123456789abcdef",
    "BASIC_AUTH_USER": "me",
    "BASIC_AUTH_PASS": "pa ss'wörd",
    "CHOICES": "animal",
    "IMAGE_HOSTS": "minio,other",
    "IMAGE_SECONDS": "3.5",
    "REQUESTS_CA_BUNDLE": "/etc/ca.pem",
    "TITLE_IS_VERSION": "true",
    "REDIS_URL": "redis://:word@redis:6379/0",
    "REDIS_HOST": "redis",
    "REDIS_PORT": "6380",
    "LOG_LEVEL": "DEBUG",
    "LOG_FORMAT": "json",
    "LOG_FILE": "/log",
}
PASTED = ["{}\n", "{}\r\n", "{}\r", " {} ", "\t{}", '"{}"', "'{}'", "“{}”", "\ufeff{}", "\u200b{}\u200b", "\u00a0{}"]


def settings_of(values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return read_settings().model_dump()


@pytest.mark.parametrize("form", PASTED)
def test_pasted_value_is_trimmed_in_the_environment(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    meant = settings_of(VALUES, monkeypatch)
    assert settings_of({name: form.format(value) for name, value in VALUES.items()}, monkeypatch) == meant


@pytest.mark.parametrize("form", PASTED)
def test_pasted_value_is_trimmed_in_files_of_secrets(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    (tmp_path / "secrets").mkdir()
    monkeypatch.setattr("my_backend.settings.SECRETS_DIR", tmp_path / "secrets")
    meant = settings_of(VALUES, monkeypatch)
    for name, value in VALUES.items():
        monkeypatch.delenv(name)
        (tmp_path / "secrets" / name.lower()).write_bytes(form.format(value).encode())

    assert read_settings().model_dump() == meant


@pytest.mark.parametrize("ending", ["\n", "\r\n", " \r\n", "\u00a0\r\n"])
def test_env_file_of_windows_is_read(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    meant = settings_of(VALUES, monkeypatch)
    for name in VALUES:
        monkeypatch.delenv(name)
    lines = ending.join(f"{name}={value}" for name, value in VALUES.items())
    Path(".env").write_bytes(f"\ufeff{lines}{ending}".encode())

    assert read_settings().model_dump() == meant


def test_blank_value_counts_as_not_given(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", " \r\n")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", '""')
    settings = read_settings()

    assert (settings.port, settings.label_studio_api_key.get_secret_value()) == (9090, "")


@pytest.mark.parametrize("odd", ["\n", "\r", "\u200b", "\udcff"])
@pytest.mark.parametrize("name", [name for name in VALUES if name not in ("PORT", "REDIS_PORT")])
def test_what_nobody_sees_inside_a_value_is_refused_without_the_value(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, name: str, odd: str
) -> None:
    for given, value in VALUES.items():
        monkeypatch.setenv(given, value)
    half = len(VALUES[name]) // 2
    monkeypatch.setenv(name, VALUES[name][:half] + odd + VALUES[name][half:])

    with pytest.raises(SystemExit, match=rf"^[^\n]*\n  {name}: contains a line break or [^\n]*$") as ended:
        read_settings()
    assert "the value is" not in str(ended.value)


@pytest.mark.parametrize("key", ["Token 0123456789", "kéy-0123456789", "0123456789’s", "'0123456789", "0123456789;"])
def test_token_with_an_odd_character_is_refused_without_being_shown(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", key)

    with pytest.raises(SystemExit, match=r"LABEL_STUDIO_API_KEY: .*copy the token again") as ended:
        read_settings()
    assert "0123456789" not in str(ended.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "redis://:pass/word-0123@redis:6379"),
        ("REDIS_URL", "http://:word-0123@redis"),
        ("LABEL_STUDIO_URL", "studio:word-0123@host"),
        ("LABEL_STUDIO_URL", "http://me:wo/rd-0123@host"),
        ("LABEL_STUDIO_URL", "http://me:word-0123@host"),
        ("LABEL_STUDIO_URL", "https://word-0123@host:8080/label-studio"),
        ("REDIS_HOST", "redis://:word-0123@redis"),
        ("BASIC_AUTH_USER", "me:word-0123"),
    ],
)
def test_address_with_a_password_is_refused_without_being_shown(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit, match=f"{name}: ") as ended:
        read_settings()
    assert "rd-0123" not in str(ended.value)


def test_user_name_in_label_studio_url_is_refused_with_the_reason(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://me:word-0123@host")

    with pytest.raises(SystemExit, match=r"LABEL_STUDIO_URL: contains a user name, .* instead of the token: remove it"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_HOST", "10.0..5"),
        ("REDIS_HOST", f"{'x' * 64}.example.com"),
        ("REDIS_URL", "redis://:word-0123@redis..svc:6379/0"),
        ("LABEL_STUDIO_URL", "http://label-studio..svc:8080"),
    ],
)
def test_host_name_that_cannot_exist_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit, match=f"{name}: has a host name that can't exist") as ended:
        read_settings()
    assert "word-0123" not in str(ended.value)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://redis/0?socket_timeout=soon", "has an option that can't be used: .*'socket_timeout'"),
        ("unix:///run/redis.sock?db=x", "has an option that can't be used: .*'db'"),
        ("redis://redis/0?protocol=9", "has an option that can't be used: protocol must be"),
        ("rediss://redis/0?ssl_cert_reqs=perhaps", "has an option that can't be used: .*perhaps"),
        ("redis://redis/0?sockettimeout=5", "has an unknown option sockettimeout after the [?]: remove it"),
        ("redis://redis/0?decode_responses=True", "has an option that can't be used: .* decode_responses"),
    ],
)
def test_redis_url_with_an_unusable_option_is_refused(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, url: str, why: str
) -> None:
    monkeypatch.setenv("REDIS_URL", url)

    with pytest.raises(SystemExit, match=rf"\n  REDIS_URL: {why}"):
        read_settings()


@pytest.mark.parametrize("url", ["redis://redis/0?socket_timeout=5", "unix:///run/redis.sock?db=1", "rediss://u:p@h"])
def test_redis_url_with_known_options_is_accepted(make_settings: MakeSettings, url: str) -> None:
    assert make_settings(redis_url=url).redis == url


@pytest.mark.parametrize("place", [".env", "secrets/basic_auth_pass"])
def test_file_that_is_no_utf_8_is_named(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secrets").mkdir()
    monkeypatch.setattr("my_backend.settings.SECRETS_DIR", tmp_path / "secrets")
    Path(place).write_bytes("PORT=9090\n".encode("utf-16"))

    with pytest.raises(SystemExit, match=r"read the settings from \.env .*UTF-8"):
        read_settings()


# --- a password for callers ---------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"BASIC_AUTH_USER": "me"}, "BASIC_AUTH_USER is set but BASIC_AUTH_PASS is not"),
        ({"BASIC_AUTH_USER": "me", "BASIC_AUTH_PASS": " "}, "BASIC_AUTH_USER is set but BASIC_AUTH_PASS is not"),
        ({"BASIC_AUTH_PASS": "a-word"}, "BASIC_AUTH_PASS is set but BASIC_AUTH_USER is not"),
        ({"BASIC_AUTH_USER": "me", "BASIC_AUTH_PASSWORD": "a-word"}, "BASIC_AUTH_PASSWORD is not a setting"),
        ({"BASIC_AUTH_USERNAME": "me", "BASIC_AUTH_PASSWORD": "a-word"}, "BASIC_AUTH_PASSWORD is not a setting"),
        ({"basic_auth_passwd": "a-word"}, "basic_auth_passwd is not a setting"),
    ],
)
@pytest.mark.parametrize("place", ["environment", ".env", "secrets"])
def test_half_a_password_is_refused(
    make_settings: MakeSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    given: dict[str, str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secrets").mkdir()
    monkeypatch.setattr("my_backend.settings.SECRETS_DIR", tmp_path / "secrets")
    for name, value in given.items():
        if place == "environment":
            monkeypatch.setenv(name, value)
        elif place == "secrets":
            (tmp_path / "secrets" / name).write_text(value)
        else:
            with Path(".env").open("a") as file:
                file.write(f"{name}={value}\n")

    with pytest.raises(SystemExit, match=said) as ended:
        read_settings()
    assert "a-word" not in str(ended.value)


@pytest.mark.parametrize("command", ["serve", "uwsgi", "production", "worker", "healthy"])
def test_half_a_password_ends_each_command(tmp_path: Path, command: str) -> None:
    environment = {**os.environ, "BASIC_AUTH_USER": "me", "BASIC_AUTH_PASSWORD": "a-word"}
    arguments = [sys.executable, "-m", "my_backend", command]
    ended = subprocess.run(arguments, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)

    assert ended.returncode == 1
    assert "BASIC_AUTH_PASSWORD is not a setting" in ended.stderr


# --- what Kubernetes and docker set -------------------------------------------


@pytest.mark.parametrize("redis", [{}, {"REDIS_URL": "redis://other:1/0"}, {"REDIS_HOST": "redis"}])
def test_port_of_a_service_counts_as_not_given(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, redis: dict[str, str]
) -> None:
    meant = settings_of(redis, monkeypatch)
    assert ignored_variables() == ""

    assert settings_of({"REDIS_PORT": "tcp://10.0.0.1:6380"}, monkeypatch) == meant
    assert "enableServiceLinks" in ignored_variables()


def test_services_of_kubernetes_set_no_other_setting() -> None:
    """A Service named `x` sets X_PORT=tcp://…, X_PORT_…, X_SERVICE_HOST and X_SERVICE_PORT."""
    names = [name.upper() for name in (*Settings.model_fields, *ClassifierSettings.model_fields)]
    assert [name for name in names if re.search(r".+_PORT$|_PORT_|_SERVICE_", name)] == ["REDIS_PORT"]
