"""Credentials in URIs: found, so that none is stored in a file or printed."""

import re
import urllib.parse

_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_BUCKETS = ("s3", "s3a", "gs", "gcs")
_NO_USERS = ("s3", "s3a", "http", "https")
"""Schemes in which a user name alone is a key. In other schemes it is a container, a login or 'anonymous'."""
_SECRET_OPTION = re.compile(
    r"secret|passw|pwd|token|credential|signature|(access|api|account|private|shared)[_-]?key|^(sig|auth|authorization)$", re.IGNORECASE
)
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "s3a": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET",
    "abfss": "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET",
    "http": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a tracking server, a .netrc file for images",
    "https": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a tracking server, a .netrc file for images",
    "postgresql": "PGPASSWORD, or the file ~/.pgpass",
}


def secret_in(text: str) -> str | None:
    """Why a location or an address holds credentials, and what to do instead; None where it holds none. The text does not repeat them.

    Credentials are a password (or a key of a store) before the host, also where an unescaped '/' in it makes the URI malformed, and
    options with the name of a secret (`access_key`, `secret_key`, `token`, `X-Amz-Signature`, ...).
    """
    if "://" not in text or (match := _URI.search(text)) is None:
        return None
    scheme, rest = match["scheme"].lower().partition("+")[0], match["rest"]  # a database has its driver after the +
    found = _password(scheme, rest)
    if found is None and scheme != "file":
        found = _secret_option(rest.partition("#")[0].partition("?")[2])
    if found is not None:
        how = f"set {_VARIABLES[scheme]}" if scheme in _VARIABLES else "use environment variables or a profile of the store"
        return f"the {scheme}:// URI holds credentials ({found}), which would be stored and printed; leave them out and {how}"
    return secret_in(rest)  # another URI in it, as of fsspec's simplecache::s3://...


def _password(scheme: str, rest: str) -> str | None:
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    if at:
        return "before the host" if ":" in user or scheme in _NO_USERS else None
    host = re.sub(r"^\[[0-9A-Fa-f:.%]*\]", "", authority)  # an IPv6 address has colons
    _, colon, port = host.partition(":")
    # A bucket has no port, and any other port is a number: so this is KEY:SECRET with a character that ends the authority.
    if colon and (scheme in _BUCKETS or not re.fullmatch(r"\d+" if "@" in rest else r"\d*", port)):
        return "before the host"
    return None


def _secret_option(query: str) -> str | None:
    for option in re.split(r"[&;]", query):
        name, _, value = map(urllib.parse.unquote, option.partition("="))
        if value and _SECRET_OPTION.search(name):
            return f"the option {name}"
        if re.search(r"[^/:]+:[^/@]+@", value) or secret_in(value) is not None:
            return f"in the option {name}"
    return None
