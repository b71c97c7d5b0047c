"""`eet warm-up`: compiles the loops of EET, so that no later job waits for it."""

from eet.retrieval.warm_up import FAMILIES, Compiled, cache_folder, compile_all
from pipelines.configs.warm_up import WarmUpConfig


def run(config: WarmUpConfig) -> list[Compiled]:
    """Prints a line for each family of loops as soon as it is ready."""
    if config.dry_run:
        print(f"dry run: {', '.join(FAMILIES)} would be compiled into {cache_folder()} and the folders next to it; nothing was started")
        return []
    width = max(map(len, FAMILIES))
    done = []
    for family in compile_all():
        done.append(family)
        print(f"{family.name:<{width}}  {family.seconds:6.1f} s", flush=True)
    print(f"kept in {cache_folder()} and the folders next to it")
    return done
