/* device_count.c - prints how many CUDA devices there are. */
#include <cuda_runtime_api.h>
#include <stdio.h>

int main(void) {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
    printf("%d\n", count);
    return 0;
}
