from pathlib import Path

import pytest

from my_backend.settings import Settings, read_settings
from tests.my_backend.conftest import MakeSettings


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
    settings = make_settings(label_studio_api_key="a-token", basic_auth_pass="a-password")

    assert "a-token" not in repr(settings) + str(settings)
    assert "a-password" not in repr(settings) + str(settings)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ""),
        ({"redis_host": "redis", "redis_port": 6380}, "redis://redis:6380/0"),
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
