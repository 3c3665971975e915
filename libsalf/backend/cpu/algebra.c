/*
 * algebra.c - the slots of linear algebra of the cpu backend: by the host's functions where it gave some, else by those
 * that the library is built with (blas.c, or plain.c and its neighbours).
 */
#include <math.h>
#include <string.h>

#include "core/core.h"
#include "cpu.h"

/* What a host's function returns, as a status. */
static salf_status by_host(const slf_cpu *cpu, const char *function, int32_t result) {
    if (result == 0) return SALF_OK;
    return cpu->host.services.fail(SALF_E_CALLBACK, "%s of '%s' returned %d", function, cpu->blas_name, (int)result);
}

/* The one way to a product of matrices. plain.c, which other algorithms here stand on, says itself which one is theirs,
 * so that a library with BLAS can be tested without it: hence the argument. */
salf_status slf_product(const slf_cpu *cpu, const salf_product *job,
                        salf_status (*own)(const slf_cpu *, const salf_product *)) {
    const salf_blas *host = cpu->host.services.options->blas;
    if (host && host->product) return by_host(cpu, "product", host->product(host->user, job));
    return own(cpu, job);
}

salf_status slf_cpu_square(const slf_cpu *cpu, const double *x, int64_t n, int64_t dim, double beta, double *out) {
    salf_product job = {.dtype = SALF_F64, .a_transposed = 1, .upper = 1, .m = dim, .n = dim, .k = n, .alpha = 1};
    job.a = job.b = x;
    job.c = out;
    job.a_stride = job.b_stride = job.c_stride = dim;
    job.beta = beta;
    return slf_cpu_product(cpu, &job);
}

/* Never by the host: a product with a vector is bound by memory, and takes as long whoever makes it. */
salf_status slf_cpu_matvec(void *self, const slf_matvec_job *job) {
    return SLF_BUILT_IN(matvec)(self, job);
}

/* A matrix without a factor is an answer, not an error. */
salf_status slf_cpu_potrf(void *self, const slf_potrf_job *job) {
    const slf_cpu *cpu = self;
    const slf_services *services = &cpu->host.services;
    const salf_blas *host = services->options->blas;
    const int64_t dim = job->dim;
    for (int64_t i = 0; i < dim * dim; i++) job->factor[i] = job->sign * job->a[i];
    for (int64_t i = 0; i < dim; i++) job->factor[i * dim + i] += job->shift;
    if (host && host->potrf) return by_host(cpu, "potrf", host->potrf(host->user, dim, job->factor, job->exists));
    return SLF_BUILT_IN(potrf)(cpu, dim, job->factor, job->exists);
}

/* The lower triangle from the upper one: P is read as full by products. */
static void mirror_upper(double *p, int64_t dim) {
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = 0; j < i; j++) p[i * dim + j] = p[j * dim + i];
}

/* Whether there is an inverse is known before its place is touched. */
salf_status slf_cpu_potri(void *self, const slf_potri_job *job) {
    const slf_cpu *cpu = self;
    const int64_t dim = job->dim;
    const salf_status status = SLF_BUILT_IN(potri)(cpu, dim, job->factor, job->inverse, job->exists);
    if (status != SALF_OK || !*job->exists) return status;
    memcpy(job->inverse, job->factor, (size_t)(dim * dim) * sizeof *job->inverse);
    mirror_upper(job->inverse, dim);
    return SALF_OK;
}

/* The plain ones go through slf_product all along, so that a host's product is most of their time. */
salf_status slf_cpu_syevd(void *self, const slf_syevd_job *job) {
    return SLF_BUILT_IN(syevd)(self, job);
}

/* As V^T V of the rows sqrt(w_k) v_k; weights are 0 or more. */
salf_status slf_cpu_syrk(void *self, const slf_syrk_job *job) {
    const slf_cpu *cpu = self;
    const int64_t dim = job->dim;
    for (int64_t k = 0; k < dim; k++)
        for (int64_t i = 0; i < dim; i++) job->vectors[k * dim + i] *= sqrt(job->weights[k]);
    SLF_TRY(slf_cpu_square(cpu, job->vectors, dim, dim, 0, job->out));
    mirror_upper(job->out, dim);
    return SALF_OK;
}
