"""What `thresher tune-serving` tries, what it takes for better, what it writes."""

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from thresher.errors import ConfigError
from thresher_export.triton_options import TritonOptions
from thresher_export.triton_overrides import override_config
from thresher_serving.tuning import Load, Objective, Settings, parse_objective
from thresher_serving.tuning.settings import candidates_of_processes, candidates_of_queue

START = Settings(instance_count=1, intra_op_threads=1, max_queue_delay_us=0, max_batch_size=64)


def load(rows_per_s: float, p99_ms: float, *, p50_ms: float = 1.0, num_failed: int = 0) -> Load:
    return Load(
        requests_per_s=rows_per_s,
        rows_per_s=rows_per_s,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        num_failed=num_failed,
    )


@pytest.mark.parametrize(
    ("text", "percentile", "limit_ms"),
    [("p99=20ms", "p99", 20.0), ("p50<=500us", "p50", 0.5), (" P99 = 1.5s", "p99", 1500.0)],
)
def test_objective_is_read(text: str, percentile: str, limit_ms: float) -> None:
    objective = parse_objective(text)
    assert (objective.percentile, objective.limit_ms) == (percentile, limit_ms)


@pytest.mark.parametrize("text", ["20ms", "p95=3ms", "p99=0ms", "p99=-1ms", "p99=20", ""])
def test_what_is_no_objective_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected p99=20ms"):
        parse_objective(text)


def test_within_the_limit_throughput_counts_and_beyond_it_latency() -> None:
    objective = Objective(percentile="p99", limit_ms=20)
    assert objective.better(load(200, 19), load(100, 5))
    assert objective.better(load(10, 20), load(1000, 21))
    assert objective.better(load(10, 30), load(1000, 31))
    assert not objective.holds(load(1000, 5, num_failed=1))
    assert Objective(percentile="p50", limit_ms=2).holds(load(1, 500, p50_ms=2))


def test_candidates_hold_no_setting_twice_and_begin_with_what_is() -> None:
    for cores in (1, 2, 16):
        tried = candidates_of_processes(START, cores)
        assert tried[0] == START
        assert len(set(tried)) == len(tried)
        assert all(s.instance_count * s.intra_op_threads <= max(2, cores) for s in tried)
    queue = candidates_of_queue(START)
    assert START not in queue
    assert {s.max_batch_size for s in queue} == {64, 32}


def test_settings_are_what_a_configuration_says_and_come_back_from_it() -> None:
    config = pb.ModelConfig(max_batch_size=64)
    config.instance_group.add(count=1)
    config.parameters["intra_op_thread_count"].string_value = "1"
    for size in (1, 7, 64):
        config.model_warmup.add(name=f"{size}", batch_size=size)
    assert Settings.of(config) == START
    other = Settings(
        instance_count=2, intra_op_threads=3, max_queue_delay_us=500, max_batch_size=32
    )
    other.lay_over(config)
    assert Settings.of(config) == other
    assert [warm.batch_size for warm in config.model_warmup] == [1, 7]  # Triton refuses larger ones


def test_lines_for_the_recipe_are_options_that_export_takes() -> None:
    import tomllib

    settings = Settings(
        instance_count=2, intra_op_threads=3, max_queue_delay_us=500, max_batch_size=32
    )
    section = tomllib.loads(settings.recipe())["triton"]
    options = TritonOptions(**section)
    config = pb.ModelConfig(max_batch_size=options.max_batch_size)
    config.dynamic_batching.max_queue_delay_microseconds = options.max_queue_delay_us
    config.instance_group.add(count=options.instance_count)
    override_config(config, options.config)
    assert Settings.of(config) == settings
