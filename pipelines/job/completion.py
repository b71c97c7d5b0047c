"""Completion of commands in a shell: jobs, their flags, and the values of flags that allow only some."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from pipelines.job.argument_errors import choices_of, flags_of

SHELLS = ("bash", "zsh")

_ZSH_READS_BASH = """\
(( $+functions[compdef] )) || { autoload -U +X compinit && compinit; }
autoload -U +X bashcompinit && bashcompinit
"""

_SCRIPT = """\
# Completion of eet for {shell}. Use it with: eval "$(eet --print-completion {shell})"
{before}_eet() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{jobs} --help --version --print-completion"
    else
        case "${{COMP_WORDS[1]}} $before" in
{values}
        *) case "$word" in -*) case "${{COMP_WORDS[1]}}" in
{flags}
        esac ;; esac ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _eet eet
"""


def completion(shell: str, config_classes: Mapping[str, Any]) -> str:
    """The script that a shell reads. Where nothing fits, the shell completes names of files.

    Args:
        shell: one of SHELLS.
        config_classes: job -> the dataclass of its options.
    """
    values, flags = [], []
    for job, config_class in config_classes.items():
        types_of = {flag.replace("_", "-"): kind for flag, kind in flags_of(config_class).items() if flag not in config_class.unused}
        for flag, kind in types_of.items():
            if allowed := choices_of(kind):
                values.append(f'        "{job} --{flag}") words="{" ".join(allowed)}" ;;')
        names = [f"--{flag}" for flag, kind in types_of.items() if not is_dataclass(kind)]
        flags.append(f'        {job}) words="{" ".join([*names, "--config", "--print-config", "--traceback", "--help"])}" ;;')
    before = _ZSH_READS_BASH if shell == "zsh" else ""
    return _SCRIPT.format(shell=shell, before=before, jobs=" ".join(config_classes), values="\n".join(values), flags="\n".join(flags))
