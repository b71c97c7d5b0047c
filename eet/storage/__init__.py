"""Where things lie and how they are read and written: local paths and URIs, whole files and folders, members of archives."""

from eet.storage.files import copy_files, exists, read_bytes, read_text, remove, write_text
from eet.storage.folder import hidden_beside, replace_folder
from eet.storage.location import (
    absolute,
    join_location,
    one_line,
    resolve,
    same_location,
    split_options,
    with_suffix,
    without_secrets,
)
from eet.storage.members import Member
from eet.storage.whole_file import whole_file

__all__ = [
    "Member",
    "absolute",
    "copy_files",
    "exists",
    "hidden_beside",
    "join_location",
    "one_line",
    "read_bytes",
    "read_text",
    "remove",
    "replace_folder",
    "resolve",
    "same_location",
    "split_options",
    "whole_file",
    "with_suffix",
    "without_secrets",
    "write_text",
]
