"""Locations, and how they are read and written: local paths and URIs, whole files and folders, members of archives."""

from eet.storage.array_file import ArrayFile, array_blocks
from eet.storage.cache import cache_folder
from eet.storage.claim import OWNER_FILE, Claim, TakenOverError, claimed
from eet.storage.files import copy_files, exists, read_bytes, read_text, remove, write_text
from eet.storage.folder import FolderKind, hidden_beside, link_files, replace_folder
from eet.storage.json_file import parsed_json, read_json
from eet.storage.leftovers import held_folder, is_hidden_name, remove_leftovers, remove_leftovers_in, sync_folder
from eet.storage.location import (
    absolute,
    check_location,
    is_inside,
    join_location,
    local_path,
    location_problem,
    one_line,
    resolve,
    same_location,
    split_options,
    with_suffix,
)
from eet.storage.members import Member
from eet.storage.secrets import secret_in
from eet.storage.whole_file import naming_file, whole_file

__all__ = [
    "OWNER_FILE",
    "ArrayFile",
    "Claim",
    "FolderKind",
    "Member",
    "TakenOverError",
    "absolute",
    "array_blocks",
    "cache_folder",
    "check_location",
    "claimed",
    "copy_files",
    "exists",
    "held_folder",
    "hidden_beside",
    "is_hidden_name",
    "is_inside",
    "join_location",
    "link_files",
    "local_path",
    "location_problem",
    "naming_file",
    "one_line",
    "parsed_json",
    "read_bytes",
    "read_json",
    "read_text",
    "remove",
    "remove_leftovers",
    "remove_leftovers_in",
    "replace_folder",
    "resolve",
    "same_location",
    "secret_in",
    "split_options",
    "sync_folder",
    "whole_file",
    "with_suffix",
    "write_text",
]
