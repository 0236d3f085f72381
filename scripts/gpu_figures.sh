#!/usr/bin/env bash
# The figures of benches/RESULTS.md that need a CUDA device, within eight minutes: tests, kernels, rollouts, iterations.
#
#   scripts/gpu_figures.sh WHEEL OUT     WHEEL: of es_llm, for the Python that runs; OUT: a folder for the figures
#
# The machine has torch, Triton, transformers, numpy and tokenizers; nothing is downloaded. The tests need pytest. A step
# that fails or takes too long doesn't stop the others; the exit status is then 1.
set -uo pipefail
cd "$(dirname "$0")/.."
wheel=$(realpath "$1")
out=$(mkdir -p "$2" && realpath "$2")
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python -m pip install --quiet --no-deps --no-index --target "$site" "$wheel" || exit 1
# The sources' own package has no compiled core, so the wheel's must come first.
export PYTHONPATH="$site" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe

failed=0
step() { # NAME SECONDS COMMAND...
    local name=$1 seconds=$2 start=$SECONDS status=0
    shift 2
    timeout --kill-after 5 "$seconds" "$@" >"$out/$name.txt" 2>"$out/$name.err" || status=$?
    echo "$name: status $status, $((SECONDS - start)) s" | tee -a "$out/summary.txt"
    tail -n 15 "$out/$name.txt"
    [ $status = 0 ] || { failed=1; tail -n 5 "$out/$name.err"; }
}

rollout=(python benches/python/rollout.py --device cuda --dtype bfloat16)
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv >"$out/card.txt" 2>&1
python -c 'import torch, triton, transformers; print(torch.__version__, triton.__version__, transformers.__version__)' >>"$out/card.txt"

if python -c 'import pytest' 2>/dev/null; then
    step tests_kernels 90 python -m pytest -q -c /dev/null --rootdir . -p no:cacheprovider -m gpu tests/test_batched.py tests/test_cuda_kernels.py \
        tests/test_streamed_kernels.py tests/test_cuda_weights.py
else
    echo "tests: no pytest on this machine" | tee -a "$out/summary.txt"
    failed=1
fi
step kernels 90 python benches/python/kernels.py --device cuda --replay_iterations 0 --parameters 2e9
step rollout_0.5B 70 "${rollout[@]}" --model random-0.5B --rows 256 --tokens 16 --runs 1
step iteration_0.5B 45 "${rollout[@]}" --model random-0.5B --rows 64 --tokens 16 --runs 1 --iteration
step rollout_7B 80 "${rollout[@]}" --model random-7B --rows 64 --tokens 16 --runs 1
step iteration_7B 60 "${rollout[@]}" --model random-7B --rows 64 --tokens 8 --runs 1 --iteration
exit $failed
