"""Settings: the last one given wins, whatever is not a setting is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.cli import dev, serve
from broker.config import Config, ConfigError, load, split_address


def write(folder: Path, text: str) -> Path:
    file = folder / "headrace.toml"
    file.write_text(text)
    return file


def test_defaults_need_nothing() -> None:
    assert load(None, {}, {}) == Config()


def test_flags_win_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'region = "file"\ndata = "file"\nlog_level = "ERROR"\n')
    environment = {
        "HEADRACE_REGION": "environment",
        "HEADRACE_DATA": "environment",
        "HOME": "/",
        "HEADRACE_ENDPOINT": "x",
    }
    config = load(file, environment, {"region": "flag", "grpc": None})
    assert (config.region, config.data, config.log_level) == ("flag", "environment", "ERROR")
    assert config.grpc == Config().grpc


# A setting is judged by what the others are in the end, not by what they are where it stands.
@pytest.mark.parametrize("where", ["file", "environment"])
def test_an_address_and_the_permission_for_it_may_come_from_different_places(tmp_path: Path, where: str) -> None:
    file = write(tmp_path, 'grpc = "0.0.0.0:7420"\n') if where == "file" else None
    environment = {"HEADRACE_GRPC": "0.0.0.0:7420"} if where == "environment" else {}
    assert load(file, environment, {"insecure": True}).grpc == "0.0.0.0:7420"
    with pytest.raises(ConfigError, match="insecure"):
        load(file, environment, {})


def test_a_bad_value_that_is_overridden_does_not_matter(tmp_path: Path) -> None:
    assert load(write(tmp_path, 'region = "No Region"\n'), {}, {"region": "north"}).region == "north"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "colour = 1\n",
            "unknown key 'colour'; known keys: auth, backups, cors_origins, credentials, data, disk_reserve_bytes, ",
        ),
        ("region = 1\n", "region must be a str, is 1"),
        ('insecure = "yes"\n', "insecure must be a bool"),
        ("insecure = 1\n", "insecure must be a bool"),
        ("region = \n", "headrace.toml"),
        ("[region]\nname = 1\n", "region must be a str"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        load(write(tmp_path, text), {}, {})
    assert "headrace.toml" in str(refused.value)


def test_a_file_that_is_not_there_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load(tmp_path / "none.toml", {}, {})


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"x\.toml"):
        load(tmp_path / "x.toml", {}, {})


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("YES", True), ("0", False), ("False", False), ("", False)]
)
def test_the_environment_says_yes_and_no_in_words(text: str, *, value: bool) -> None:
    assert load(None, {"HEADRACE_INSECURE": text}, {}).insecure is value


def test_the_environment_is_refused_by_the_name_of_the_variable() -> None:
    with pytest.raises(ConfigError, match="HEADRACE_INSECURE"):
        load(None, {"HEADRACE_INSECURE": "perhaps"}, {})


@pytest.mark.parametrize("region", ["", "a" * 65, "North", "a_b", "a b", "\u00e9", "a\n"])
def test_a_region_is_1_to_64_small_letters_digits_and_hyphens(region: str) -> None:
    assert Config(region="eu-north-1").region == "eu-north-1"
    assert Config(region="a" * 64).region == "a" * 64
    with pytest.raises(ConfigError, match=r"^region"):
        Config(region=region)


def test_a_log_level_is_one_of_four() -> None:
    with pytest.raises(ConfigError, match=r"^log_level: 'debug' must be one of DEBUG, INFO, WARNING, ERROR"):
        Config(log_level="debug")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:0", "localhost:65535", "[::1]:7420"])
@pytest.mark.parametrize("key", ["grpc", "http"])
def test_loopback_addresses_need_no_permission(key: str, address: str) -> None:
    assert getattr(Config(**{key: address}), key) == address  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["0.0.0.0:1", "192.168.0.1:1", "example.org:1", "[::]:1", "[2001:db8::1]:1"])
@pytest.mark.parametrize("key", ["grpc", "http"])
def test_other_addresses_need_one(key: str, address: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: .*not a loopback address"):
        Config(**{key: address})  # type: ignore[arg-type]
    assert getattr(Config(**{key: address, "insecure": True}), key) == address  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "address", ["", "localhost", ":7420", "localhost:", "localhost:x", "localhost:65536", "localhost:-1"]
)
def test_what_is_no_address_is_refused_by_its_key(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^http: .*must be HOST:PORT"):
        Config(http=address)


def test_an_address_has_a_host_and_a_port() -> None:
    assert split_address("grpc", "localhost:7420") == ("localhost", 7420)
    assert split_address("grpc", "[::1]:0") == ("::1", 0)


@pytest.mark.parametrize("command", [serve, dev])
def test_a_bad_setting_ends_a_command_with_one_line_and_code_2(command: object, tmp_path: Path) -> None:
    file = write(tmp_path, "colour = 1\n")
    result = CliRunner().invoke(command, ["--config", str(file)])  # type: ignore[arg-type]
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("headrace: ")
    assert result.stderr.count("\n") == 1
    assert "'colour'" in result.stderr


def test_a_whole_number_of_seconds_is_a_number_of_seconds(tmp_path: Path) -> None:
    assert load(write(tmp_path, "upkeep_interval_seconds = 5\n"), {}, {}).upkeep_interval_seconds == 5.0
    assert load(None, {"HEADRACE_UPKEEP_INTERVAL_SECONDS": "0.5"}, {}).upkeep_interval_seconds == 0.5
    for text in ("0", "soon", "1e9", "nan"):
        with pytest.raises(ConfigError, match=r"(?i)upkeep_interval_seconds"):
            load(None, {"HEADRACE_UPKEEP_INTERVAL_SECONDS": text}, {})


def test_a_reserve_is_a_whole_number_of_bytes(tmp_path: Path) -> None:
    assert load(write(tmp_path, "disk_reserve_bytes = 0\n"), {}, {}).disk_reserve_bytes == 0
    assert load(None, {"HEADRACE_DISK_RESERVE_BYTES": "4096"}, {}).disk_reserve_bytes == 4096
    for text in ("-1", "1.5", "1GiB", ""):
        with pytest.raises(ConfigError, match=r"(?i)disk_reserve_bytes"):
            load(None, {"HEADRACE_DISK_RESERVE_BYTES": text}, {})


def test_backups_are_kept_in_the_data_folder_unless_told_otherwise() -> None:
    assert Config(data="there").backups_folder == Path("there/backups")
    assert Config(data="there", backups="elsewhere").backups_folder == Path("elsewhere")


def credentials(folder: Path, text: str) -> Config:
    file = folder / "credentials"
    file.write_text(text)
    file.chmod(0o600)
    return Config(credentials=str(file))


def test_every_profile_of_a_credentials_file_may_sign(tmp_path: Path) -> None:
    text = """
        [default]
        aws_access_key_id = AKIDONE
        aws_secret_access_key = with%percent/and+more=
        region = ignored
        [other]
        aws_access_key_id: AKIDTWO
        aws_secret_access_key: two
        [again]
        aws_access_key_id = AKIDTWO
        aws_secret_access_key = two
    """
    assert credentials(tmp_path, text).access_keys() == {"AKIDONE": "with%percent/and+more=", "AKIDTWO": "two"}
    assert Config().access_keys() == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("aws_access_key_id = A\naws_secret_access_key = hidden", "cannot be read"),
        ("[a]\n[a]\n", "cannot be read"),
        ("[a]\naws_access_key_id = A\n", "profile a of .* must have aws_access_key_id and aws_secret_access_key"),
        ("[a]\naws_secret_access_key = hidden\n", "profile a of .* must have"),
        (
            (
                "[a]\naws_access_key_id = A\naws_secret_access_key = hidden\n"
                "[b]\naws_access_key_id = A\naws_secret_access_key = other\n"
            ),
            "two secrets for the access key A",
        ),
    ],
)
def test_a_credentials_file_that_cannot_be_is_refused_without_its_secrets(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        credentials(tmp_path, text).access_keys()
    assert "hidden" not in str(refused.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        Config(credentials=str(tmp_path / "nothing")).access_keys()


def test_serve_wants_signatures_and_dev_does_not_unless_told() -> None:
    assert load(None, {}, {}).auth == "sigv4"
    assert load(None, {}, {}, {"auth": "none"}).auth == "none"
    assert load(None, {"HEADRACE_AUTH": "sigv4"}, {}, {"auth": "none"}).auth == "sigv4"
    with pytest.raises(ConfigError, match="auth: 'basic' must be one of sigv4, none"):
        Config(auth="basic")


# Where anybody may call, any web page could write to a developer's broker.
def test_pages_of_all_origins_may_call_only_where_requests_are_signed_unless_it_is_asked_for() -> None:
    assert Config().allowed_origins is None
    assert Config(auth="none").allowed_origins == frozenset()
    for auth in ("none", "sigv4"):
        assert Config(auth=auth, cors_origins="*").allowed_origins is None
        named = Config(auth=auth, cors_origins="https://app.example, http://localhost:3000")
        assert named.allowed_origins == frozenset(("https://app.example", "http://localhost:3000"))


@pytest.mark.parametrize(
    "origin",
    ["app.example", "https://", "https://app.example/", "https://App.example", "https://app.example:port", "", "null"],
)
def test_an_origin_is_a_scheme_a_host_and_maybe_a_port(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"^cors_origins"):
        Config(cors_origins=f"https://fine.example,{origin}")
