"""The spec decides the bytes: its fingerprint, its shards, and what it refuses."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppod_data.errors import ConfigError, SpecMismatchError
from ppod_data.format.prompts import normalise, prompt_id, unprintable
from ppod_data.format.spec import GenerationSpec, from_json, to_json
from ppod_data.format.spec_difference import check_same_spec
from tests.support.toy import make_spec

INFORMATIVE = {"model", "revision", "variant", "adapter"}
OTHER = {
    "policy_fingerprint": "e" * 64,
    "scheduler": {"_class_name": "DDIMScheduler", "beta_end": 0.02, "set_alpha_to_one": False},
    "prompts": ("a cat and a dog",),
    "negative_prompt": "blurry",
    "num_images_per_prompt": 4,
    "num_inference_steps": 5,
    "guidance_scale": 7.5,
    "guidance_mode": "sequential",
    "ddim_eta": 0.5,
    "initial_noise": "per-prompt",
    "seed": 1,
    "stage": 1,
    "purpose": "eval",
    "batch_size": 3,
    "images_per_shard": 5,
    "compute_dtype": "bf16",
    "latent_dtype": "fp16",
    "store_steps": "last:2",
    "height": 32,
    "width": 32,
    "latent_shape": (4, 4, 4),
    "safety_checker": "c" * 64,
    "noisy_steps": "1:3",
}


FORWARD_ONLY = {"origin", "images"}


def forward_spec(**changes: Any) -> GenerationSpec:
    """Three images given for the first prompt, one for the second."""
    images = (("a" * 64, "b" * 64, "c" * 64), ("a" * 64,))
    return make_spec(**{"origin": "forward-process", "purpose": "forward", "images": images} | changes)


def test_every_field_is_told_apart_or_declared_informative() -> None:
    assert {field.name for field in fields(GenerationSpec)} == OTHER.keys() | INFORMATIVE | FORWARD_ONLY


def test_given_images_are_in_the_order_of_their_prompts() -> None:
    spec = forward_spec()
    spec.validate()
    assert (spec.num_samples, spec.num_shards) == (4, 1)
    assert [spec.place(n) for n in range(4)] == list(spec.places()) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert from_json(json.loads(json.dumps(to_json(spec)))) == spec
    assert spec.shard_sample_ids(0) == [spec.sample_id(spec.prompt_ids[p], k) for p, k in spec.places()]


def test_given_images_are_part_of_the_fingerprint_and_of_a_new_version() -> None:
    spec, other = forward_spec(), forward_spec(images=(("a" * 64, "b" * 64, "d" * 64), ("a" * 64,)))
    assert spec.fingerprint != other.fingerprint
    assert to_json(spec)["version"] == 2 and to_json(make_spec())["version"] == 1
    assert not FORWARD_ONLY & to_json(make_spec()).keys()
    with pytest.raises(SpecMismatchError, match="images differs: the data set has 4, the file 4 others"):
        check_same_spec(spec, other)
    with pytest.raises(SpecMismatchError, match="origin differs: 'policy' in the data set"):
        check_same_spec(make_spec(), spec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origin": "web"}, "origin is 'web': choose one of policy, forward-process"),
        ({"purpose": "train"}, "contradict each other"),
        ({"images": ()}, "contradict each other"),
        ({"origin": "policy"}, "contradict each other"),
        ({"images": (("a" * 64,) * 3, ("a" * 64,))}, r"images\[0\]: expected distinct sha256 hashes"),
        ({"images": (("a" * 64, "b" * 64, "c" * 64), ())}, r"images\[1\]: expected distinct sha256 hashes"),
        (
            {"images": (("A" * 64, "b" * 64, "c" * 64), ("a" * 64,))},
            r"images\[0\]: expected distinct sha256 hashes",
        ),
        ({"images": (("a" * 64, "b" * 64, "c" * 64),)}, "images has 1 lists for 2 prompts"),
        ({"num_images_per_prompt": 4}, "num_images_per_prompt must be the largest number"),
    ],
)
def test_given_images_that_contradict_the_spec_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        forward_spec(**changes).validate()


def test_given_images_of_another_type_are_refused() -> None:
    values = to_json(forward_spec())
    for wrong in ("a" * 64, ["a" * 64], [[1]], None):
        with pytest.raises(ConfigError, match="images must be lists of texts"):
            from_json(values | {"images": wrong})
    with pytest.raises(ConfigError, match="lacks the key 'images'"):
        from_json({key: value for key, value in values.items() if key != "images"})
    with pytest.raises(ConfigError, match="unknown key 'images'"):
        from_json(to_json(make_spec()) | {"images": [["a" * 64]]})


@pytest.mark.parametrize("name", OTHER)
def test_every_identity_field_changes_fingerprint_and_sample_ids(name: str) -> None:
    spec, other = make_spec(), make_spec(**{name: OTHER[name]})
    other.validate()
    assert spec.fingerprint != other.fingerprint
    assert spec.sample_id("p" * 32, 0) != other.sample_id("p" * 32, 0)


@pytest.mark.parametrize("name", sorted(INFORMATIVE))
def test_how_the_model_was_named_changes_nothing(name: str) -> None:
    assert make_spec(**{name: "./another"}).fingerprint == make_spec().fingerprint
    check_same_spec(make_spec(**{name: "./another"}), make_spec())
    check_same_spec(make_spec(), make_spec(**{name: "./another"}))


def test_a_variant_is_written_only_where_it_was_given() -> None:
    plain, fp16 = make_spec(), make_spec(variant="fp16")
    assert "variant" not in to_json(plain) and to_json(fp16)["variant"] == "fp16"
    assert from_json(to_json(fp16)) == fp16 and from_json(to_json(plain)).variant is None
    with pytest.raises(ConfigError, match="variant must be text or null"):
        from_json({**to_json(plain), "variant": 16})


def test_the_fingerprint_is_pinned() -> None:
    """A change here would orphan every data set that exists: give the spec a new version when it is meant."""
    assert make_spec().fingerprint == "6a1107cbe17adc183c82957410a6afd2bf5ee6ac3ffae4546051aa053010a41e"
    assert make_spec().sample_id(prompt_id("a cat and a dog"), 2) == "402f8a9ddcb6c893dcde298097a056b1"


def test_a_window_of_all_steps_is_written_as_none() -> None:
    """Data sets from before the option keep their fingerprint; a window gives the spec a version of its own."""
    whole, windowed = make_spec(noisy_steps="0:4"), make_spec(noisy_steps="00:3")
    assert whole == make_spec() and "noisy_steps" not in to_json(whole) and whole.window == "0:4"
    assert (windowed.noisy_steps, windowed.noisy_range, windowed.version) == ("0:3", range(3), 4)
    assert from_json(to_json(windowed)) == windowed and windowed.fingerprint != whole.fingerprint
    given = forward_spec(noisy_steps="1:3")
    assert from_json(to_json(given)) == given and given.version == 4
    with pytest.raises(ConfigError, match="version is 1, but its keys are those of version 4"):
        from_json(to_json(windowed) | {"version": 1})
    for window in ("3", "2:2", "0:5", "a:b", "-1:2"):
        with pytest.raises(ConfigError, match="noisy_steps is"):
            make_spec(noisy_steps=window).validate()


def test_equal_values_have_one_fingerprint() -> None:
    spec = make_spec()
    assert make_spec(guidance_scale=5, ddim_eta=1).fingerprint == spec.fingerprint
    assert make_spec(prompts=list(spec.prompts), latent_shape=[4, 2, 3]) == spec
    backwards = dict(reversed(spec.scheduler.items()))
    assert json.dumps(to_json(make_spec(scheduler=backwards))) == json.dumps(to_json(spec))


def test_shards_cover_the_samples_in_order() -> None:
    spec = make_spec()
    assert (spec.num_samples, spec.num_shards) == (6, 2)
    assert [spec.shard_range(i) for i in range(2)] == [range(0, 4), range(4, 6)]
    for shard in (-1, 2):
        with pytest.raises(ConfigError, match="this data set has shards 0 to 1"):
            spec.shard_range(shard)


@pytest.mark.parametrize(
    ("store_steps", "expected"),
    [
        ("all", (0, 1, 2, 3, 4)),
        ("last:1", (4,)),
        ("last:5", (0, 1, 2, 3, 4)),
        ("every:1", (0, 1, 2, 3, 4)),
        ("every:2", (0, 2, 4)),
        ("every:5", (0,)),
    ],
)
def test_stored_steps(store_steps: str, expected: tuple[int, ...]) -> None:
    assert make_spec(num_inference_steps=5, store_steps=store_steps).stored_steps() == expected


@given(st.integers(1, 100), st.sampled_from(["all", "last", "every"]), st.integers(1, 120))
def test_stored_steps_are_ascending_steps_of_the_chain(steps: int, kind: str, number: int) -> None:
    spec = make_spec(num_inference_steps=steps, store_steps=kind if kind == "all" else f"{kind}:{number}")
    if kind != "all" and number > steps:
        with pytest.raises(ConfigError):
            spec.validate()
        return
    stored = spec.stored_steps()
    assert list(stored) == sorted(set(stored)) and set(stored) <= set(range(steps)) and stored
    expected = {"all": steps, "last": number, "every": -(-steps // number)}[kind]
    assert len(stored) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ddim_eta": 0.0}, "ddim_eta is 0.0: it must be at most 1, and above 0"),
        ({"ddim_eta": 1.1}, "ddim_eta is 1.1"),
        ({"ddim_eta": float("nan")}, "ddim_eta is nan"),
        ({"guidance_scale": 0.5}, "guidance_scale is 0.5: it must be at least 1"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0: it must be at least 1"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"images_per_shard": 0}, "images_per_shard is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
        ({"stage": -1}, "stage is -1"),
        ({"compute_dtype": "float32"}, "compute_dtype is 'float32': choose one of fp32, bf16, fp16"),
        ({"latent_dtype": "fp8"}, "latent_dtype is 'fp8'"),
        ({"guidance_mode": "both"}, "guidance_mode is 'both': choose one of batched, sequential"),
        ({"initial_noise": "shared"}, "initial_noise is 'shared': choose one of per-image, per-prompt"),
        ({"purpose": "test"}, "purpose is 'test'"),
        ({"store_steps": "first:2"}, "store_steps is 'first:2': write all, last:N or every:N"),
        ({"store_steps": "last:"}, "store_steps is 'last:'"),
        ({"store_steps": "last:0"}, "N must be from 1 to num_inference_steps (4)"),
        ({"store_steps": "every:5"}, "N must be from 1 to num_inference_steps (4)"),
        ({"store_steps": "last:²"}, "store_steps is 'last:²'"),
        ({"prompts": ()}, "there are no prompts"),
        ({"prompts": ("a", "b", "a")}, "prompts[2] repeats 'a'"),
        ({"prompts": (" a",)}, "prompts[0] is not normalised"),
        ({"negative_prompt": "blurry\udce4"}, "negative_prompt holds the control character U+DCE4"),
        ({"prompts": ("a\tb",)}, "prompts[0] holds the control character U+0009"),
        ({"num_images_per_prompt": 2.0}, "num_images_per_prompt must be a whole number, not 2.0"),
        ({"batch_size": True}, "batch_size must be a whole number, not True"),
        ({"seed": "0"}, "seed must be a whole number, not '0'"),
        ({"guidance_scale": "5"}, "guidance_scale must be a number, not '5'"),
        ({"revision": 3}, "revision must be text or null, not 3"),
        ({"latent_shape": (4, 8)}, "latent_shape is [4, 8]: it must be [channels, height, width]"),
        ({"scheduler": {"betas": (0.1, 0.2)}}, "scheduler must be an object of plain JSON values"),
        ({"scheduler": {"beta": float("nan")}}, "scheduler must be an object of plain JSON values"),
    ],
)
def test_bad_options_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_spec(**changes).validate()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", OTHER)
def test_a_changed_spec_is_refused_with_field_values_and_way_out(name: str) -> None:
    with pytest.raises(SpecMismatchError) as error:
        check_same_spec(make_spec(), make_spec(**{name: OTHER[name]}))
    text = str(error.value)
    assert text.startswith(name)
    assert "into another folder" in text and "\n" not in text and len(text) < 400


def test_differences_show_both_values() -> None:
    spec = make_spec()
    for changes, message in [
        ({"num_images_per_prompt": 8}, "num_images_per_prompt differs: 3 in the data set, 8 in the options"),
        (
            {"prompts": (spec.prompts[0], "a fox")},
            "prompts[1] differs: 'zwölf grüne Hasen 🐇' in the data set",
        ),
        ({"prompts": ("a fox",)}, "the data set has 2 prompts, the options give 1"),
        ({"scheduler": {**spec.scheduler, "beta_end": 1.0}}, "scheduler['beta_end'] differs: 0.012 in"),
        ({"negative_prompt": "x" * 500}, "xxx… in the options"),
    ]:
        with pytest.raises(SpecMismatchError) as error:
            check_same_spec(spec, replace(spec, **changes))
        assert message in str(error.value)


def test_the_first_field_that_differs_is_named() -> None:
    other = make_spec(seed=1, num_images_per_prompt=9, width=32)
    with pytest.raises(SpecMismatchError, match=r"^num_images_per_prompt"):
        check_same_spec(make_spec(), other)


def test_another_policy_is_told_by_its_names() -> None:
    other = make_spec(policy_fingerprint="e" * 64, model="m", revision="r", adapter="runs/a")
    with pytest.raises(
        SpecMismatchError, match=r"made by scenes \(ffff.*name m, revision r, adapter runs/a \(ee"
    ):
        check_same_spec(make_spec(), other)


def test_json_is_strict() -> None:
    values = to_json(make_spec())
    with pytest.raises(ConfigError, match="unknown key 'eta'"):
        from_json(values | {"eta": 1})
    with pytest.raises(ConfigError, match="lacks the key 'seed'"):
        from_json({key: value for key, value in values.items() if key != "seed"})
    for version in (9, None, "1"):
        with pytest.raises(ConfigError, match="update ppod"):
            from_json(values | {"version": version})
    with pytest.raises(ConfigError, match="prompts must be a list of texts"):
        from_json(values | {"prompts": "a cat"})
    with pytest.raises(ConfigError, match="ddim_eta is 2"):
        from_json(values | {"ddim_eta": 2})


PROMPTS = st.text(min_size=1, max_size=20).filter(lambda text: text.strip() and not unprintable(text.strip()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
SPECS = st.builds(
    make_spec,
    revision=st.none() | st.text(),
    prompts=st.lists(PROMPTS.map(normalise), min_size=1, max_size=4, unique=True).map(tuple),
    scheduler=st.dictionaries(st.text(), JSON, max_size=4),
    negative_prompt=PROMPTS.map(normalise) | st.just(""),
    num_images_per_prompt=st.integers(1, 1000),
    images_per_shard=st.integers(1, 1000),
    guidance_scale=st.floats(1, 1e6) | st.integers(1, 100),
    ddim_eta=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, 2**63 - 1),
    latent_dtype=st.sampled_from(["fp32", "bf16", "fp16"]),
    latent_shape=st.tuples(*[st.integers(1, 128)] * 3),
)


@settings(deadline=None)
@given(SPECS)
def test_json_round_trip_keeps_value_and_fingerprint(spec: GenerationSpec) -> None:
    spec.validate()
    again = from_json(json.loads(json.dumps(to_json(spec), allow_nan=False)))
    assert again == spec
    assert again.fingerprint == spec.fingerprint


@settings(deadline=None)
@given(SPECS)
def test_shards_partition_the_samples(spec: GenerationSpec) -> None:
    ranges = [spec.shard_range(shard) for shard in range(spec.num_shards)]
    assert [n for indices in ranges for n in indices] == list(range(spec.num_samples))
    assert all(0 < len(indices) <= spec.images_per_shard for indices in ranges)
