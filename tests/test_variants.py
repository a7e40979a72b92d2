"""benchmarks/variants.py. No test looks at how long something took."""

import torch

from benchmarks import variants


def test_a_variant_is_measured_and_its_table_says_where():
    threads = torch.get_num_threads()
    cost = variants.measure("mobilenet320-fe", batch=2, width=0.1, iterations=1, threads=threads)
    assert cost.peak_gib > 0
    text = variants.as_markdown({"mobilenet320-fe": cost._replace(peak_gib=1.234, seconds=0.5)}, 2, 0.1, 1)
    assert text.startswith(cost.machine)
    assert "batch 2, width 0.1" in text
    assert text.endswith("| mobilenet320-fe | 320 | 1.23 | 0.500 |")
