"""The simulation of many GPUs against cases worked by hand, published formulas, and what a run's files say."""

import json
import math
import random
from pathlib import Path

import pytest

from bench.scaling.model import Patient, Site, bottleneck, bounds, demands
from bench.scaling.page import main
from bench.scaling.runs import on_cards, read_run
from bench.scaling.simulation import efficiencies, saturating_gpus, scale, simulate

ONE = Patient(bytes_read=0, prepare_s=1, network_s=4, finish_s=2, bytes_written=0)
"""Seven seconds alone."""


def _random_patients(number: int, seed: int = 1) -> list[Patient]:
    """Each part exponential with a mean of one second; nothing to transfer."""
    rng = random.Random(seed)
    return [Patient(0, *(rng.expovariate(1) for _ in range(3)), 0) for _ in range(number)]


# The simulation


def test_without_overlap_a_worker_takes_the_sum_of_all_stages():
    run = simulate([ONE] * 10, Site(1, at_a_time=1))
    assert run.seconds == 70
    assert (run.gpu_s, run.cpu_s, run.storage_s) == (40, 30, 0)


def test_with_overlap_each_further_patient_takes_the_longest_stage():
    assert simulate([ONE] * 10, Site(1)).seconds == 7 + 9 * 4


def test_a_longest_stage_on_a_core_decides_as_well():
    slow_writing = Patient(0, 1, 2, 5, 0)
    assert simulate([slow_writing] * 10, Site(1)).seconds == 8 + 9 * 5


def test_with_two_patients_on_their_way_the_third_waits_for_the_first_to_be_written():
    # (prepared, through the network, finished): 3, 7, 10; 6, 11, 14; the third begins at 10: 13, 17, 20; the fourth at
    # 14: 17, 21, 24. With three on their way the network is never idle: 10 + 3 x 4.
    patients = [Patient(0, 3, 4, 3, 0)] * 4
    assert simulate(patients, Site(1, at_a_time=2)).seconds == 24
    assert simulate(patients, Site(1, at_a_time=3)).seconds == 22


def test_cores_for_one_patient_only_make_preparing_and_finishing_take_turns():
    # Preparing, 3 s, and finishing, 3 s, on one core: 6 s a patient, and the network's 1 s is hidden but for the last
    # patients. With cores for two it is 3 s a patient.
    patients = [Patient(0, 3, 1, 3, 0)] * 100
    assert 600 <= simulate(patients, Site(1, cpu_parts=1)).seconds <= 600 + 7
    assert simulate(patients, Site(1, cpu_parts=2)).seconds == 7 + 99 * 3


def test_two_lanes_prepare_twice_as_fast_where_there_are_cores():
    patients = [Patient(0, 4, 1, 1, 0)] * 100
    one, two = (simulate(patients, Site(1, at_a_time=5, lanes=lanes, cpu_parts=4)).seconds for lanes in (1, 2))
    assert one == 6 + 99 * 4
    assert two == pytest.approx(one / 2, rel=0.02)


def test_a_slow_storage_takes_the_bytes_by_the_bandwidth():
    """80 bytes are read and 20 written at 10 bytes a second: 10 s each patient, however many workers there are."""
    patients = [Patient(80, 1, 1, 1, 20)] * 200
    run = simulate(patients, Site(16, bandwidth=10))
    assert 2000 <= run.seconds <= 2000 + 3
    assert run.storage_s == 2000


def test_two_workers_are_twice_as_fast_where_nothing_is_shared():
    patients = [ONE] * 1000
    one, two = (simulate(patients, Site(gpus)).seconds for gpus in (1, 2))
    assert (one - 7) / (two - 7) == pytest.approx(2, rel=0.003)


def test_every_worker_starts_with_a_restart():
    assert simulate([ONE] * 10, Site(1, restart_s=100)).seconds == 100 + 7 + 9 * 4


def test_a_closed_queue_of_exponential_servers_has_the_throughput_of_gordon_and_newell():
    """Three equal exponential servers in a cycle with three customers: N / (N + M - 1) = 3 / 5 of a server's rate."""
    run = simulate(_random_patients(20_000), Site(1))
    assert 20_000 / run.seconds == pytest.approx(3 / 5, rel=0.01)


def test_a_task_that_begins_again_at_each_failure_takes_the_textbook_time():
    """Mean of a task of s seconds, failures at rate r, repairs of d: (1 / r + d) (exp(r s) - 1)."""
    patients = [Patient(0, 30, 40, 30, 0)] * 20_000
    run = simulate(patients, Site(1, at_a_time=1, mtbf_s=500, restart_s=50))
    assert run.seconds / 20_000 == pytest.approx((500 + 50) * math.expm1(100 / 500), rel=0.02)


@pytest.mark.parametrize("gpus", [1, 3, 8])
def test_no_patient_is_lost_to_failures_and_none_is_finished_twice(gpus):
    patients = [Patient(5, *(p.prepare_s, p.network_s, p.finish_s), 2) for p in _random_patients(2000)]
    run = simulate(patients, Site(gpus, bandwidth=20, mtbf_s=40, restart_s=10), seed=3)
    assert run.failures > 5 * gpus
    assert run.begun_again > run.failures
    assert set(run.finished) == {1}
    # What was lost is what was spent beyond the work of each patient once.
    assert run.lost_gpu_s == pytest.approx(run.gpu_s - sum(p.network_s for p in patients))
    assert run.lost_cpu_s == pytest.approx(run.cpu_s - sum(p.cpu_s for p in patients))
    assert 0 < run.lost_share < 0.5


def test_without_failures_nothing_is_lost():
    run = simulate(_random_patients(100), Site(2))
    assert (run.failures, run.begun_again, run.lost_share) == (0, 0, 0)


def test_what_a_patient_had_cost_until_its_worker_failed_is_lost():
    """A single worker with a patient that is all network: while it is up it is on the card."""
    runs = [simulate([Patient(0, 0, 50, 0, 0)], Site(1, mtbf_s=60, restart_s=1000), seed) for seed in range(20)]
    assert any(run.failures > 1 for run in runs)
    for run in runs:
        assert run.gpu_s == pytest.approx(run.seconds - 1000 * (1 + run.failures))
        assert run.lost_gpu_s == pytest.approx(run.gpu_s - 50)


def test_an_idle_worker_takes_over_the_last_patient_of_one_that_failed():
    waits = [simulate([Patient(0, 0, 50, 0, 0)], Site(2, mtbf_s=100, restart_s=10_000), seed) for seed in range(60)]
    taken = [run for run in waits if run.begun_again == 1 and run.failures == 1]
    assert taken
    assert all(10_050 < run.seconds <= 10_100 for run in taken)


def test_a_patient_longer_than_the_time_between_failures_is_refused():
    with pytest.raises(ValueError, match=r"takes 7 s and a worker fails every 6 s"):
        simulate([ONE], Site(1, mtbf_s=6))


def test_the_same_seed_gives_the_same_run_and_another_one_another():
    site, patients = Site(2, mtbf_s=50, restart_s=5), _random_patients(500)
    assert simulate(patients, site, 1) == simulate(patients, site, 1)
    assert simulate(patients, site, 1).seconds != simulate(patients, site, 2).seconds


# The bounds


def test_the_bounds_are_those_of_operational_analysis():
    patient, site = Patient(80, 1, 4, 2, 20), Site(3, bandwidth=100, cpu_parts=2)
    assert demands([patient], site) == pytest.approx(
        {"GPU": 4, "CPU, preparing": 1.8, "CPU, finishing": 2.2, "CPU, cores": 1.5, "storage": 1}
    )
    found = bounds([patient], site)
    assert found["GPU"] == pytest.approx(3 / 4)
    assert found["storage"] == pytest.approx(1)  # shared: three workers have no more of it
    assert found["cases at a time"] == pytest.approx(3 * 3 / 8)  # three workers, three on their way, 8 s each
    assert bottleneck(found) == "GPU"


def test_a_worker_that_is_down_half_of_the_time_allows_half():
    site = Site(2, mtbf_s=100, restart_s=100)
    assert bounds([ONE], site)["GPU"] == pytest.approx(2 / 4 / 2)


def test_no_simulation_is_faster_than_its_bound_and_a_saturated_one_reaches_it():
    patients = [Patient(20, p.prepare_s, p.network_s, p.finish_s, 5) for p in _random_patients(5000)]
    points = scale(patients, Site(1, bandwidth=100), [1, 2, 4, 8, 16], hourly=1, seed=0)
    for point in points:
        assert point.simulated.per_hour / 3600 <= min(point.bounds.values()) * (1 + 1e-9)
    assert bottleneck(points[-1].bounds) == "storage"
    assert points[-1].simulated.per_hour / 3600 == pytest.approx(points[-1].bounds["storage"], rel=0.01)
    assert efficiencies(points)[0] == 1
    assert efficiencies(points)[-1] < 0.6


def test_the_utilisation_law_holds():
    """Busy share = throughput x seconds that a patient needs."""
    patients = [Patient(20, p.prepare_s, p.network_s, p.finish_s, 5) for p in _random_patients(3000)]
    (point,) = scale(patients, Site(1, bandwidth=100, cpu_parts=2), [3], hourly=1, seed=0)
    each, rate, busy = demands(patients, point.site), point.simulated.per_hour / 3600, point.busy()
    assert busy["GPU"] == pytest.approx(rate * each["GPU"] / 3)
    assert busy["CPU"] == pytest.approx(rate * each["CPU, cores"] / 3)
    assert busy["storage"] == pytest.approx(rate * each["storage"])


def test_the_storage_saturates_where_the_workers_ask_for_more_than_it_has():
    # One worker does a patient every 4 s; the storage, 100 bytes a patient at 250 a second, one every .4 s.
    (point,) = scale([Patient(100, 1, 4, 2, 0)], Site(1, bandwidth=250), [1], hourly=1, seed=0)
    assert saturating_gpus(point) == pytest.approx(10)


def test_the_cost_is_the_price_of_all_workers_for_the_whole_time():
    (point,) = scale([Patient(0, 0, 3600, 0, 0)] * 4, Site(1), [2], hourly=3, seed=0)
    assert point.cost == pytest.approx(2 * 2 * 3)  # two hours, two workers


# What a run says


def _write_run(folder: Path, *, device: str = "cpu", executor: str = "serial", flat: bool = False) -> Path:
    """Two patients and one without a result; the first case's row holds 5 s of loading, each .25 s of hashing."""
    (folder / "in").mkdir(parents=True)
    cases: dict[str, object] = {"broken": {"folder": "broken"}}
    rows = ["case,seconds", "broken,0.1"]
    for number, name in enumerate(("a", "b"), start=1):
        (folder / "in" / f"{name}.nii").write_bytes(bytes(1000 * number))
        (folder / "in" / f"{name}-seg.nii").write_bytes(bytes(10))
        results = [folder / f"{name}.nii.gz", folder / "previews" / f"{name}_preview.png"]
        if not flat:
            results = [folder / name / f"{name}_seg.nii.gz", folder / name / f"{name}_preview.png"]
        for path in (*results, folder / ".state" / f"{name}.json"):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(bytes(100))
        stages = {"read": 0.5, "preprocess": 0.5 * number, "network": 8.0 * number, "restore": 0.5, "write": 0.5}
        files = {f"in/{name}.nii": "sha", f"in/{name}-seg.nii": "sha"}
        cases[name] = {"folder": name, "inputs": files, "stages": stages}
        rows.append(f"{name},{sum(stages.values()) + (5.25 if name == 'a' else 0.25)}")
    record = {
        "started": "2026-01-02T03:04:05Z",
        "working_folder": str(folder),
        "options": {"device_used": device, "executor": executor, "flat": flat},
        "machine": {"threads": 2, "processor": "a processor", "gpu": "a card"},
        "cases": cases,
    }
    (folder / "report.csv").write_text("\n".join(rows) + "\n")
    (folder / "run.json").write_text(json.dumps(record))
    return folder / "run.json"


@pytest.mark.parametrize("flat", [False, True])
def test_times_and_sizes_are_those_of_the_run(tmp_path, flat):
    run = read_run(_write_run(tmp_path, flat=flat))
    assert run.patients == (Patient(1010, 1.25, 8, 1, 300), Patient(2010, 1.75, 16, 1, 300))
    assert (run.other_s, run.load_s) == pytest.approx((0.25, 5))
    assert run.threads == 2
    assert "2 of 3 cases" in run.about


def test_rows_of_overlapping_cases_tell_nothing_beside_the_stages(tmp_path):
    run = read_run(_write_run(tmp_path, executor="overlap"))
    assert run.other_s is None
    assert [p.prepare_s for p in run.patients] == [1.0, 1.5]


def test_the_network_of_a_cpu_is_divided_and_that_of_a_card_is_taken_as_it_is(tmp_path):
    on_cpu, on_card = read_run(_write_run(tmp_path / "c")), read_run(_write_run(tmp_path / "g", device="cuda:0"))
    assert [p.network_s for p in on_cards(on_cpu, None, 4)] == [2, 4]
    assert [p.network_s for p in on_cards(on_card, None, 4)] == [8, 16]
    assert [p.network_s for p in on_cards(on_card, 0.5, 4)] == [0.5, 0.5]


def test_a_patient_whose_files_are_gone_is_named(tmp_path):
    path = _write_run(tmp_path)
    (tmp_path / "in" / "b.nii").unlink()
    with pytest.raises(SystemExit, match=r"b\.nii is gone.*do the run again"):
        read_run(path)


def test_another_file_than_a_run_json_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(SystemExit, match=r"no run\.json of `run_pipeline\.py segment`"):
        read_run(tmp_path / "run.json")


def test_a_run_that_is_not_there_names_how_to_make_one(tmp_path):
    with pytest.raises(SystemExit, match=r"run\.json: not there; .*make demo"):
        read_run(tmp_path / "run.json")


# The command


def test_the_page_says_of_each_number_where_it_comes_from(tmp_path, capsys):
    path = _write_run(tmp_path)
    command = [str(path), "--patients", "200", "--gpus", "2", "1", "--gpu-hour", "3", "--raw", str(tmp_path / "raw")]
    assert main([*command, "--output", str(tmp_path / "page.md")]) == 0
    page = capsys.readouterr().out
    assert page == (tmp_path / "page.md").read_text()
    assert "| price of a GPU for an hour | 3 | assumed (option --gpu-hour) |" in page
    assert "| preparing, s a patient | 1.500 (1.250 to 1.750) | measured: run 1 |" in page
    assert "assumed (option --gpu-speedup): those of run 1 / 20" in page
    inputs = page.partition("## What goes in")[2].partition("##")[0]
    sources = [line.split("|")[3].strip() for line in inputs.splitlines()[4:] if line]
    assert all(source.startswith(("measured: ", "assumed (option --")) for source in sources)
    raw = json.loads((tmp_path / "raw").read_text())
    assert [point["site"]["gpus"] for point in raw["points"]] == [1, 2]
    assert raw["points"][0]["of_perfect_scaling"] == 1


def test_fewer_cores_than_the_run_had_threads_are_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"--cores 1: the run used 2 threads a patient"):
        main([str(_write_run(tmp_path)), "--cores", "1"])


def test_a_run_without_failures_is_asked_for_with_inf(tmp_path, capsys):
    main(
        [str(_write_run(tmp_path)), "--patients", "20", "--gpus", "1", "--mtbf", "inf", "--raw", str(tmp_path / "raw")]
    )
    assert "| mean time between a worker's failures, h | inf | assumed (option --mtbf) |" in capsys.readouterr().out
    assert json.loads((tmp_path / "raw").read_text())["points"][0]["site"]["mtbf_s"] is None
