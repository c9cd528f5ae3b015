"""The supervisor with workers that die by plan: `fault_up.py DIR OPTIONS-AS-JSON`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from switch.config import load_settings
from switch.prepare import Preparation
from switch.supervisor import SupervisorOptions, supervise


def main() -> int:
    data_dir = Path(sys.argv[1])
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    chosen: dict[str, Any] = json.loads(sys.argv[2])
    settings = load_settings(None, {"data_dir": data_dir, "metrics_port": 0, "switch_port": 0})
    worker = None
    (data_dir / "fault-redis.json").write_text(json.dumps(chosen.get("redis_of", {})))
    if chosen.get("plan"):
        worker = [sys.executable, str(Path(__file__).with_name("fault_worker.py"))]
    options = SupervisorOptions(
        data_dir=data_dir,
        host="127.0.0.1",
        switch_port=0,
        network_port=0,
        metrics_port=0,
        workers=chosen["workers"],
        postgres_url=chosen.get("postgres_url"),
        redis_url=chosen.get("redis_url"),
        demo=True,
    )
    return supervise(options, Preparation(settings, demo_cards=1000), worker_command=worker)


if __name__ == "__main__":
    sys.exit(main())
