"""The same small tuning budget for every method: five settings each, on two prompts that are none of the paper's.

    python docs/experiments/tune.py [--out build/experiments]

Seed 1000, 512 reward queries, 96 updates, 256 evaluation images a prompt of a seed that is reported nowhere else. A
method's settings are those with the best sum of the two mean rewards. Figures: docs/experiments/tune.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from lab import TUNING_PROMPTS, Method, judge, once, slug, train

SEED = 1000
PROMPTS = TUNING_PROMPTS[1:3]
PESSIMISTIC = {"clip_mode": "pessimistic-step"}

TRIALS: dict[str, list[Method]] = {
    "ppod-online": [
        Method(objective="ppod", stages=4),
        Method(objective="ppod", stages=4, settings={"clip_anchor": "stage"}),
        Method(objective="ppod", stages=4, settings={"clip_anchor": "stage", **PESSIMISTIC}),
        Method(objective="ppod", stages=8, settings={"clip_anchor": "stage"}),
        Method(objective="ppod", stages=4, settings={"log_ratio_clip": 0.03, **PESSIMISTIC}),
    ],
    "ppod-offline": [
        Method(objective="ppod"),
        Method(objective="ppod", settings=PESSIMISTIC),
        Method(objective="ppod", settings={"log_ratio_clip": 0.03}),
        Method(objective="ppod", settings={"log_ratio_clip": 0.003}),
        Method(objective="ppod", settings={"log_ratio_clip": 0.03, **PESSIMISTIC}),
    ],
    "sft": [
        Method(objective="sft"),
        Method(objective="sft", settings={"reward_temperature": 0.3}),
        Method(objective="sft-best"),
        Method(objective="sft", settings={"reward_temperature": 0.3, "learning_rate": 1e-3}),
        Method(objective="sft", settings={"reward_temperature": 0.3, "learning_rate": 6e-3}),
    ],
    "ddpo": [
        Method(objective="ddpo", stages=4),
        Method(objective="ddpo", stages=8),
        Method(objective="ddpo", stages=8, settings={"log_ratio_clip": 0.001}),
        Method(objective="ddpo", stages=8, settings={"learning_rate": 1e-3}),
        Method(objective="ddpo", stages=16),
    ],
    "dpok": [
        Method(objective="dpok", stages=4),
        Method(objective="dpok", stages=8),
        Method(objective="dpok", stages=8, settings={"kl_weight": 1.0}),
        Method(objective="dpok", stages=8, settings={"log_ratio_clip": 0.001}),
        Method(objective="dpok", stages=16),
    ],
    "d3po": [
        Method(objective="d3po", stages=4),
        Method(objective="d3po", stages=4, settings={"log_ratio_clip": 0.1}),
        Method(objective="d3po", stages=4, settings={"log_ratio_clip": 0.03, "dpo_beta": 100.0}),
        Method(objective="d3po", stages=8, settings={"log_ratio_clip": 0.03}),
        Method(objective="d3po", stages=4, settings={"log_ratio_clip": 0.03, "learning_rate": 1e-3}),
    ],
    "prdp": [
        Method(objective="prdp", stages=4),
        Method(objective="prdp", stages=4, settings={"reward_temperature": 3.0}),
        Method(objective="prdp", stages=4, settings={"log_ratio_clip": 0.03, "reward_temperature": 3.0}),
        Method(objective="prdp", stages=8, settings={"reward_temperature": 3.0}),
        Method(objective="prdp", stages=4, settings={"dpo_beta": 30.0}),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments"))
    parser.add_argument("--only", nargs="*", default=list(TRIALS), help="methods")
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.only:
        for number, method in enumerate(TRIALS[name]):
            found: dict[str, Any] = {}
            for prompt in PROMPTS:
                shared = arguments.out / "tune" / slug(prompt)

                def run(
                    folder: Path, method: Method = method, prompt: str = prompt, shared: Path = shared
                ) -> Any:
                    policy = train(folder, method, [prompt], seed=SEED, shared=shared)
                    return judge(folder, policy, [prompt], images=256, seed=SEED)

                record = once(shared / f"{name}-{number}", run)
                if record is not None:
                    found[prompt] = {key: record[key] for key in ("reward_mean", "correct", "diversity")}
            row = {
                "objective": method.objective,
                "stages": method.stages,
                "settings": {key: str(value) for key, value in method.settings.items()},
                "prompts": found,
            }
            rows.setdefault(name, []).append(row)
            print(name, number, [round(item["reward_mean"], 2) for item in found.values()], flush=True)
    if set(arguments.only) == set(TRIALS):
        Path(__file__).with_name("tune.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
