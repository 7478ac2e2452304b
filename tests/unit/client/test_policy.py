"""The site's policy: what it refuses and how, and files that are none."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.client.policy import Policy, parse_policy, read_policy
from hedgerow.errors import ConfigError
from hedgerow.records import Kind, Origin
from tests.source_tree import ROOT

ANN, EVE, BOB = "hedgerow://driver/ann", "hedgerow://driver/eve", "hedgerow://operator/trial-7"


def test_without_a_policy_everything_is_allowed() -> None:
    assert all(Policy().refusal(kind, Origin()) == "" for kind in (*Kind, "secret_sauce"))
    assert parse_policy("", "p") == Policy()


@pytest.mark.parametrize(
    ("driver", "told"),
    [
        (ANN, ""),
        (BOB, ""),  # an operator may run jobs, too
        (EVE, "allows no tasks of the driver 'eve'"),
        ("hedgerow://driver/Ann", "allows no tasks of the driver 'Ann'"),
        ("hedgerow://driver/ann2", "allows no tasks of the driver 'ann2'"),
        ("", "does not say which one"),
        ("ann", "does not say which one"),
        ("driver/ann00000", "does not say which one"),  # what a driver without certificate calls itself
        ("hedgerow://client/ann", "does not say which one"),
        ("hedgerow://server/ann", "does not say which one"),
        ("hedgerow://driver/ann/x", "does not say which one"),
        ("hedgerow://driver/ann\n", "does not say which one"),
    ],
)
def test_drivers_are_told_apart_by_the_name_in_their_certificate(driver: str, told: str) -> None:
    refusal = Policy(drivers=("ann", "trial-*")).refusal("fit", Origin(driver, 1))
    assert refusal.startswith("The site's policy" if told else "")
    assert told in refusal
    assert bool(refusal) == bool(told)


def test_an_empty_list_allows_nobody_and_a_star_everybody_with_a_certificate() -> None:
    assert Policy(drivers=()).refusal("fit", Origin(ANN, 1))
    assert Policy(kinds=frozenset()).refusal("fit", Origin(ANN, 1))
    assert not Policy(drivers=("*",)).refusal("fit", Origin(EVE, 1))
    assert Policy(drivers=("*",)).refusal("fit", Origin("driver/12345678", 1))


def test_kinds_are_taken_word_for_word() -> None:
    policy = Policy(kinds=frozenset({"fit", "secret_sauce"}))
    assert policy.refusal("fit", Origin()) == policy.refusal("secret_sauce", Origin()) == ""
    assert policy.refusal("get_parameters", Origin()) == "The site's policy allows no tasks of the kind 'get_parameters'."
    assert policy.refusal("Fit", Origin()) != ""


@pytest.mark.parametrize(("sites", "allowed"), [(0, False), (1, False), (2, False), (3, True), (10**6, True)])
def test_a_minimum_of_sites_is_for_its_kind_alone(sites: int, allowed: bool) -> None:
    policy = Policy(min_sites={"fit": 3})
    refusal = policy.refusal("fit", Origin(ANN, sites))
    assert (refusal == "") == allowed
    assert allowed or f"at least 3 sites in fit; the server counts {sites}" in refusal
    assert policy.refusal("evaluate", Origin(ANN, 1)) == ""


def test_a_policy_for_certain_drivers_needs_a_server_that_knows_them() -> None:
    Policy(kinds=frozenset({"fit"})).check_connection(with_certificate=False)
    Policy(drivers=("ann",)).check_connection(with_certificate=True)
    with pytest.raises(ConfigError, match="asks for no certificates"):
        Policy(drivers=("ann",)).check_connection(with_certificate=False)


def test_a_policy_can_be_told_in_one_line() -> None:
    assert str(Policy()) == "any driver; any kind of task"
    assert str(Policy(("ann", "t*"), frozenset({"fit", "evaluate"}), {"fit": 3})) == (
        "drivers: ann, t*; kinds: evaluate, fit; at least 3 sites in fit"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("driver = ['ann']", "has the key 'driver'; the keys are drivers, kinds, min_sites"),
        ("drivers = 'ann'", "drivers must be a list of texts"),
        ("drivers = [1]", "drivers must be a list of texts"),
        ("drivers = ['']", "drivers must be a list of texts"),
        ("drivers = {ann = true}", "drivers must be a list of texts"),
        ("kinds = true", "kinds must be a list of texts"),
        ("kinds = ['fit or so']", "kinds has 'fit or so'"),
        ("kinds = ['train']", "no kind of task that a client knows: get_properties, get_parameters, fit, evaluate"),
        ("min_sites = {fitt = 3}", "min_sites has 'fitt', which is no kind of task"),
        ("min_sites = 3", "min_sites must be a table"),
        ("min_sites = {fit = '3'}", "min_sites.fit must be a number of sites from 1 up; it is '3'"),
        ("min_sites = {fit = true}", "min_sites.fit must be a number"),
        ("min_sites = {fit = 2.0}", "min_sites.fit must be a number"),
        ("min_sites = {fit = 0}", "min_sites.fit must be a number"),
        ("min_sites = {'a b' = 2}", "min_sites has 'a b'"),
        ("kinds = ['fit']\nmin_sites = {evaluate = 3}", "min_sites has the kind 'evaluate', which kinds does not allow"),
        ("drivers = [", "is not in TOML"),
        ("drivers = []\ndrivers = []", "is not in TOML"),
        ("x = " + "[" * 10_000, "is not in TOML"),
    ],
)
def test_what_is_no_policy_is_refused_with_the_reason(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)) as refused:
        parse_policy(text, "site.toml")
    assert "The site's policy site.toml" in str(refused.value)


@given(st.text(alphabet="drivesknm_t=[]{}'\"\n #0123,.x", max_size=60))
def test_any_text_is_a_policy_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_policy(text, "p").refusal("fit", Origin(ANN, 1))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot read the site's policy .*none\.toml: No such file"):
        read_policy(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"drivers = ['\xe4nn']")
    with pytest.raises(ConfigError, match="not a text in UTF-8"):
        read_policy(tmp_path / "latin.toml")


def test_the_example_in_the_documentation_is_a_policy(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "policy.toml").write_text(example)
    policy = read_policy(tmp_path / "policy.toml")
    assert policy == Policy(("ann", "trial-*"), frozenset({"get_properties", "fit", "evaluate"}), {"fit": 3, "evaluate": 3})
    assert policy.refusal("fit", Origin("hedgerow://driver/trial-12", 3)) == ""
    assert policy.refusal("fit", Origin("hedgerow://driver/trial-12", 2)) != ""
