"""Times torch.linalg.pinv of a head of Llama-3-8B's shape on the GPU, beside which bench_gpu's basis stands."""

import sys
import time

try:
    import torch
except ImportError:
    sys.exit("SKIPPED: PyTorch is not there")
if not torch.cuda.is_available():
    sys.exit("SKIPPED: PyTorch has no CUDA device")

torch.backends.cuda.matmul.allow_tf32 = False
head = torch.empty(128256, 4096, device="cuda").uniform_(-0.025, 0.025).bfloat16().float()
best = float("inf")
for _ in range(2):
    torch.cuda.synchronize()
    start = time.perf_counter()
    torch.linalg.pinv(head)
    torch.cuda.synchronize()
    best = min(best, time.perf_counter() - start)
print(f"{'torch.linalg.pinv':28} {best * 1e3:9.3f} ms  ({torch.__version__}, {torch.cuda.get_device_name()})")
