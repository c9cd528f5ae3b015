"""The supervisor with fake workers as a program: `supervise_fakes.py DIR OPTIONS-AS-JSON`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from switch.supervisor import SupervisorOptions, supervise

DEFAULTS = {
    "host": "127.0.0.1",
    "switch_port": 0,
    "network_port": 0,
    "metrics_port": 0,
    "workers": 2,
    "postgres_url": None,
    "redis_url": None,
    "demo": True,
    "drain_timeout_s": 5,
}


def main() -> int:
    data_dir = Path(sys.argv[1])
    chosen = json.loads(sys.argv[2])

    def prepare(postgres_url: str, redis_url: str) -> Mapping[str, object]:
        if (data_dir / "prepare-fails").exists():
            raise ValueError("no programme today")
        if (data_dir / "prepare-takes-long").exists():
            time.sleep(60)
        return {"currency": "978", "terminals": [{"id": "00000001"}], "cards": []}

    # without site packages: it needs none, and starts in half the time
    worker = [sys.executable, "-I", "-S", str(Path(__file__).with_name("fake_worker.py"))]
    options = SupervisorOptions(data_dir=data_dir, **(DEFAULTS | chosen))
    return supervise(options, prepare, worker_command=worker)


if __name__ == "__main__":
    sys.exit(main())
