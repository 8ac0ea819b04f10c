"""Where images are kept and what they are sealed with, as a person names them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import checkpoint.api as agent_api
from controller.core.errors import Refused

DEFAULT = "/var/lib/midstream/images"

OPTIONS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_ENDPOINT_URL", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "AWS_SKIP_SIGNATURE", "GOOGLE_SERVICE_ACCOUNT"),
    *("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
)
"""The environment variables that are an archive's options, under their usual names."""

_MISTYPED = re.compile(r"(s3|gs|az|abfs|https?|file)(:|//)", re.IGNORECASE)
"""The beginning of a URL, where it is none: nobody's folder is called that."""


def archive_at(place: str) -> agent_api.Archive:
    """A folder (made absolute, for the agent's folder is another) or a URL, with its options from the environment.

    Raises Refused for what can be neither: a folder would be made of it.
    """
    if "://" not in place:
        if not place or _MISTYPED.match(place):
            hint = "say a folder, or a URL like s3://BUCKET/PREFIX"
            raise Refused("bad-archive", f"{place!r} is neither a folder nor a URL", "request", hint)
        return agent_api.Archive(str(Path(place).absolute()))
    return agent_api.Archive(place, {name.lower(): os.environ[name] for name in OPTIONS if os.environ.get(name)})


def key_source(file: Path | None, command: str | None) -> agent_api.KeySource:
    """Raises Refused where no key, or two, are named."""
    if file and command:
        message = f"an image is sealed with one key, and two are named: the file {file} and a command"
        raise Refused("two-keys", message, "request", "see MIDSTREAM_KEY_FILE and MIDSTREAM_KEY_COMMAND, too")
    if not (file or command):
        hint = "midstream images key FILE makes one; then say --key-file FILE, or set MIDSTREAM_KEY_FILE"
        raise Refused("no-key", "an image is sealed with a key: name its file or a command", "request", hint)
    return agent_api.KeySource(str(file.absolute()) if file else "", command or "")
