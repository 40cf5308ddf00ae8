"""The ``marlgpt import-bag`` command: bags of driving fleets into a trajectory store, with a report."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from marlgpt_sim.runs.output_folder import check_output_file, output_folder
from tqdm import tqdm

from marlgpt_training.bags.bag_reader import BagError, open_bag
from marlgpt_training.bags.import_args import Args
from marlgpt_training.bags.one_import import Import
from marlgpt_training.bags.report import TITLE, write_report
from marlgpt_training.bags.summary import Summary
from marlgpt_training.store.fleet_episode import FleetEpisode
from marlgpt_training.store.shards import STORE, is_store, write_shard

SHARD = 16
"""Episodes of one shard, at most: what is in memory at a time."""


def shard_name(path: Path) -> str:
    """Beginning of the names of a bag's shards."""
    path = path.resolve()
    parts = [part for part in (path.parent.name, path.name) if part]
    return re.sub(r"[^A-Za-z0-9_.]+", "_", "-".join(parts)).strip("._")[:120] or "bag"


def import_bag(path: Path, args: Args, progress: Callable[[int], None] = lambda _: None) -> Summary:
    """Import one bag into ``args.out``.

    Raises:
        BagError: Nothing of it could be used.
    """
    work = Import(path, args, progress)
    name = shard_name(path)
    written: set[Path] = set()
    waiting: list[FleetEpisode] = []

    def write() -> None:
        target = args.out / f"{name}-{len(written):05d}.parquet"
        write_shard(target, waiting)
        written.add(target)
        waiting.clear()

    for episode in work.run():
        waiting.append(episode)
        if len(waiting) == SHARD:
            write()
    if waiting:
        write()
    if not written:
        raise BagError(f"{path}: not one step could be taken: {work.summary.reasons()}")
    for old in args.out.glob("*.parquet"):
        if re.fullmatch(re.escape(name) + r"-\d{5}\.parquet", old.name) and old not in written:
            old.unlink()
    work.summary.shards = len(written)
    return work.summary


def main(args: Args) -> int:
    """Run the command; 1 if a bag could not be imported, though others were."""
    if not args.bag:
        raise ValueError("--bag: name at least one bag, e.g. --bag out/demo/bag")
    if args.rest <= 0 or args.step < 0:
        raise ValueError("--rest must be above 0 and --step at least 0 seconds")
    report = args.report or args.out / "report.html"
    with output_folder(args.out, STORE, is_store):
        check_output_file(report, TITLE.encode(), option="--report")
        return _import_all(args, report)


def _import_all(args: Args, report: Path) -> int:
    """Import every bag that can be, write the report; the exit status."""
    summaries: list[Summary] = []
    for path in args.bag:
        quiet = 0.2 if sys.stderr.isatty() else 30.0
        with tqdm(unit="B", unit_scale=True, desc=path.name, mininterval=quiet, dynamic_ncols=True) as bar:
            try:
                bar.total = 2 * open_bag(path).size  # it is read twice
                summaries.append(import_bag(path, args, bar.update))
            except (ValueError, OSError) as error:  # one bad bag does not stop the others
                text = str(error) if str(path) in str(error) else f"{path}: {error}"
                summaries.append(Summary(str(path), path.name, error=text))
        print(summaries[-1].line(), file=sys.stderr if summaries[-1].error else sys.stdout, flush=True)
    write_report(report, summaries)
    print(f"report: {report}")
    failed = [summary for summary in summaries if summary.error]
    if len(failed) == len(summaries):
        raise BagError("no bag could be imported")
    return 1 if failed else 0
