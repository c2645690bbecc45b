"""A training in a process of its own, to be killed: prints the digest of its weights in the end."""

import hashlib
import json
import sys
import time
from pathlib import Path

from sciflow import Context
from sciflow.registry import registry
from sciflow.stages.train import Checkpoints
from tests.operators.test_training import smoothing


def main(folder, config, pause):
    kept = Checkpoints(Path(folder))
    history, resume = kept.latest()
    surrogate = registry().build(json.loads(config), kind="surrogate")
    samples = smoothing(40)
    run = surrogate.fit(samples, smoothing(8, seed=5), Context(seed=1), resume)
    while True:
        try:
            report = next(run)
        except StopIteration as end:
            model = end.value
            break
        if not report.batches:
            history.append(dict(report.metrics))
        kept.save(history, report.checkpoint(), report.batches)
        print(report.epoch, report.batches, flush=True)
        time.sleep(float(pause))
    state = b"".join(v.tobytes() for _, v in sorted(model.state().items()))
    curves = [{k: v for k, v in row.items() if k != "samples_per_second"} for row in history]
    text = json.dumps(curves, sort_keys=True).encode()
    print("weights", hashlib.sha256(state + text).hexdigest(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
