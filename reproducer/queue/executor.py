"""Runs stages: each once, whatever is in the store already and whoever else works on it."""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from reproducer.queue.handler import Handler, load_handlers
from reproducer.queue.outcome import Outcome
from reproducer.queue.progress import Progress
from reproducer.queue.runner import Runner
from reproducer.queue.stage import Stage, canonical, topological
from reproducer.queue.store import Store
from reproducer.queue.workers import Workers


def run(
    stages: Iterable[Stage],
    handlers: Mapping[str, Handler] | str,
    store: Store,
    jobs: int = 1,
    progress: Progress | None = None,
    environment: Mapping[str, Any] | None = None,
) -> Outcome:
    """Bring `stages`, and all that they need, to an artifact each.

    A stage that fails blocks those that need it; all others still run. Stages that another process on the same
    store is at are left for later and then waited for. Whatever ends this process, the next run goes on from
    what was finished.

    Args:
        handlers: kind -> handler, or "module:attribute" where such a mapping is found.
        jobs: processes that share the work; more than one needs the handlers by name.
        progress: the display; None shows nothing.
        environment: package versions and the like for the records, beside Python, platform and CPU.
    Raises:
        UserError: the store cannot be used, or the disk is full; what was finished is kept.
        KeyboardInterrupt: likewise.
        ValueError: a stage without a handler of its version, or `jobs` > 1 without the handlers' name.
    """
    order = topological(stages)
    progress = progress or Progress()
    environment = environment or {}
    name = handlers if isinstance(handlers, str) else None
    canonical(environment, "environment")  # fail now and not when the first stage has finished
    if jobs > 1 and name is None:
        raise ValueError("more than one job needs the handlers as 'module:attribute'")
    runner = Runner(order, load_handlers(handlers), store, progress, environment, uuid.uuid4().hex[:12])
    runner.collect()
    todo = runner.open()
    if todo:
        store.prepare()
    workers = None
    try:
        progress.begin(todo, len(order) - len(todo), store.typical_seconds(one.kind for one in todo), jobs)
        if name is not None and min(jobs, len(todo)) > 1:
            workers = Workers((order, name, store.root, environment, runner.run_id), progress)
            workers.start(min(jobs, len(todo)) - 1)
            runner.colleagues = workers.pids
            runner.between = workers.check
        runner.loop()
        if workers:
            workers.leave()
    finally:
        if workers:
            workers.close()
        progress.close()
    return Outcome({stage.key: runner.results[stage.key] for stage in order})
