"""What a record keeps of a command line."""

from __future__ import annotations

import shlex

import pytest

from wattwerk.metering.masking import masked


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("curl --password 'a b' y", "curl --password '***' y"),
        ("x --api-key=abc OPENAI_API_KEY=zz", "x '--api-key=***' 'OPENAI_API_KEY=***'"),
        ("x --hf-token t --auth-token=u -token v", "x --hf-token '***' '--auth-token=***' -token '***'"),
        ("curl https://u:pw@host/x?token=zz&a=1", "curl 'https://u:***@host/x?token=***&a=1'"),
        ("curl -H 'Authorization: Bearer abc.def'", "curl -H 'Authorization: Bearer ***'"),
        ("hub login hf_abcdefghijkl", "hub login '***'"),
        ("""sh -c "HF_TOKEN='a b' x.py --token abc; echo" """, "sh -c 'HF_TOKEN=*** x.py --token ***; echo'"),
        ("""sh -c "curl -d '{\\"password\\": \\"x y\\"}'" """, """sh -c 'curl -d '"'"'{"password": ***}'"'"''"""),
    ],
)
def test_what_looks_like_a_secret_is_masked(line: str, kept: str) -> None:
    """Options, assignments, logins of URLs, headers and known tokens, also within a script."""
    assert shlex.join(masked(shlex.split(line))) == kept


@pytest.mark.parametrize(
    "line",
    [
        "train --max-tokens 512 --max_tokens=3 --tokenizer gpt2",
        "play --keyboard=de --monkey 3 monkey=3",
        "git log --author=me",
        "python -c 'print(1)' --key-file ./id",
    ],
)
def test_what_only_sounds_like_a_secret_stays(line: str) -> None:
    """A record that hides the number of tokens would be of no use."""
    assert masked(shlex.split(line)) == shlex.split(line)
