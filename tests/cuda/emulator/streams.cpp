/*
 * streams.cpp - streams, events and graphs: what is enqueued runs when somebody waits, as late as it can.
 *
 * Operations of a stream are numbered; an event is a stream and a number. The default stream and the streams that are
 * not made non-blocking wait for one another, by markers in their queues.
 */
#include <cstring>
#include <deque>
#include <memory>
#include <set>
#include <vector>

#include "internal.h"

/* What a graph holds: an operation, or the record of an event. */
struct node {
    std::function<void()> run;
    CUevent_st *event;
};
struct CUgraph_st {
    std::vector<node> nodes;
};
struct CUgraphExec_st {
    std::vector<node> nodes;
};

struct CUevent_st {
    CUstream_st *stream = nullptr; /* NULL: never recorded */
    uint64_t number = 0;
    bool captured = false;
};

struct CUstream_st {
    std::deque<std::function<void()>> queue;
    uint64_t done = 0; /* operations that have run */
    bool blocking = true;
    int device = -1; /* any */
    bool capturing = false, spoilt = false;
    std::vector<node> recorded;

    uint64_t last() const { return done + queue.size(); }
};

namespace emulator {

namespace {

CUstream_st default_stream, thread_stream;
std::set<CUstream_st *> streams;

CUstream_st *resolve(cudaStream_t stream) {
    if (stream == nullptr || stream == cudaStreamLegacy) return &default_stream;
    if (stream == cudaStreamPerThread) return &thread_stream;
    if (!streams.count(stream)) misuse("stream %p is not there", static_cast<void *>(stream));
    return stream;
}

/* Runs operations up to a number; after the device broke they are dropped. */
void run_until(CUstream_st *s, uint64_t number) {
    if (s->done >= number) return; /* opening memory costs a system call a block */
    const opened open;
    while (s->done < number) {
        if (s->queue.empty()) misuse("a stream waits for an operation that it does not have");
        const std::function<void()> operation = std::move(s->queue.front());
        s->queue.pop_front();
        s->done++;
        if (!broken) operation();
    }
}

void wait_in_queue(CUstream_st *s, CUstream_st *other) {
    const uint64_t number = other->last();
    if (other == s || other->done >= number) return;
    s->queue.push_back([=] { run_until(other, number); });
}

/* The default stream and blocking streams wait for one another. */
void order(CUstream_st *s) {
    if (s == &default_stream) {
        wait_in_queue(s, &thread_stream);
        for (CUstream_st *other : streams)
            if (other->blocking) wait_in_queue(s, other);
    } else if (s->blocking) {
        wait_in_queue(s, &default_stream);
    }
}

template <typename Do> void each_stream(Do &&action) {
    action(&default_stream);
    action(&thread_stream);
    for (CUstream_st *s : streams) action(s);
}

} // namespace

bool capturing_anywhere() {
    bool any = false;
    each_stream([&](CUstream_st *s) { any = any || s->capturing; });
    return any;
}

cudaError_t unsafe_in_capture() {
    each_stream([](CUstream_st *s) { s->spoilt = s->spoilt || s->capturing; });
    return remember(cudaErrorStreamCaptureUnsupported);
}

void run_everything() {
    bool any = false;
    each_stream([&](CUstream_st *s) { any = any || !s->queue.empty(); });
    if (!any) return;
    const opened open; /* once for all streams */
    each_stream([](CUstream_st *s) { run_until(s, s->last()); });
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> operation) {
    CUstream_st *s = resolve(stream);
    if (broken) return remember(cudaErrorIllegalAddress);
    if (s->device >= 0 && s->device != current_ordinal()) return remember(cudaErrorInvalidResourceHandle);
    if (s->capturing) {
        if (s->spoilt) return remember(cudaErrorStreamCaptureInvalidated);
        s->recorded.push_back({std::move(operation), nullptr});
        return cudaSuccess;
    }
    if (s == &default_stream && capturing_anywhere()) {
        unsafe_in_capture();
        return remember(cudaErrorStreamCaptureImplicit);
    }
    order(s);
    s->queue.push_back(std::move(operation));
    return cudaSuccess;
}

} // namespace emulator

using namespace emulator;

static cudaError_t wait_for(CUstream_st *s, uint64_t number) {
    if (s->capturing) return unsafe_in_capture();
    counts.waits++;
    run_until(s, number);
    return broken ? remember(cudaErrorIllegalAddress) : cudaSuccess;
}

/* Not ready at first: each look lets one more operation run. */
static cudaError_t look_at(CUstream_st *s, uint64_t number) {
    if (s->capturing) return unsafe_in_capture();
    if (s->done < number) {
        run_until(s, s->done + 1);
        return broken ? remember(cudaErrorIllegalAddress) : cudaErrorNotReady;
    }
    return broken ? remember(cudaErrorIllegalAddress) : cudaSuccess;
}

static cudaError_t record(CUevent_st *event, cudaStream_t stream) {
    if (const cudaError_t error = enqueue(stream, [] {})) return error;
    event->stream = resolve(stream);
    event->number = event->stream->last();
    event->captured = false;
    return cudaSuccess;
}

extern "C" {

cudaError_t cudaDeviceSynchronize(void) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaDeviceSynchronize")) return error;
    if (capturing_anywhere()) return unsafe_in_capture();
    counts.waits++;
    run_everything();
    return broken ? remember(cudaErrorIllegalAddress) : cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaStreamCreateWithFlags")) return error;
    CUstream_st *s = new CUstream_st;
    s->blocking = flags != cudaStreamNonBlocking;
    s->device = current_ordinal();
    streams.insert(s);
    counts.live_handles++;
    *stream = s;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const guard held(lock);
    CUstream_st *s = resolve(stream);
    run_until(s, s->last());
    streams.erase(s);
    counts.live_handles--;
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaStreamSynchronize")) return error;
    CUstream_st *s = resolve(stream);
    return wait_for(s, s->last());
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaStreamQuery")) return error;
    CUstream_st *s = resolve(stream);
    return look_at(s, s->last());
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaStreamWaitEvent")) return error;
    CUstream_st *other = event->stream;
    const uint64_t number = event->number;
    if (!other || other->done >= number) return cudaSuccess;
    return enqueue(stream, [=] { run_until(other, number); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaEventCreateWithFlags")) return error;
    *event = new CUevent_st;
    counts.live_handles++;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    const guard held(lock);
    counts.live_handles--;
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned int flags) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaEventRecord")) return error;
    CUstream_st *s = resolve(stream);
    if (!s->capturing && flags == cudaEventRecordExternal) return remember(cudaErrorInvalidValue);
    if (s->capturing && flags == cudaEventRecordDefault) {
        event->captured = true;
        return cudaSuccess;
    }
    if (s->capturing) {
        s->recorded.push_back({nullptr, event});
        return cudaSuccess;
    }
    return record(event, stream);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaEventQuery")) return error;
    if (event->captured) return remember(cudaErrorCapturedEvent);
    if (!event->stream) return cudaSuccess;
    return look_at(event->stream, event->number);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaEventSynchronize")) return error;
    if (event->captured) return remember(cudaErrorCapturedEvent);
    if (!event->stream) return cudaSuccess;
    return wait_for(event->stream, event->number);
}

/* Nothing is known of time here: a millisecond between any two events that have passed. */
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaEventElapsedTime")) return error;
    for (const cudaEvent_t event : {begin, end})
        if (!event->stream || event->stream->done < event->number) return remember(cudaErrorNotReady);
    *milliseconds = 1;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaStreamBeginCapture")) return error;
    CUstream_st *s = resolve(stream);
    if (s == &default_stream) return remember(cudaErrorStreamCaptureUnsupported);
    s->capturing = true;
    s->spoilt = false;
    s->recorded.clear();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    const guard held(lock);
    CUstream_st *s = resolve(stream);
    *graph = nullptr;
    s->capturing = false;
    if (s->spoilt) return remember(cudaErrorStreamCaptureInvalidated);
    *graph = new CUgraph_st{std::move(s->recorded)};
    s->recorded.clear();
    counts.live_handles++;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaStreamIsCapturing")) return error;
    CUstream_st *s = resolve(stream);
    if (s == &default_stream && capturing_anywhere()) return remember(cudaErrorStreamCaptureImplicit);
    *status = !s->capturing ? cudaStreamCaptureStatusNone
              : s->spoilt   ? cudaStreamCaptureStatusInvalidated
                            : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaGraphInstantiate")) return error;
    *exec = new CUgraphExec_st{graph->nodes};
    counts.live_handles++;
    return cudaSuccess;
}

/* Each launch records the graph's events anew. */
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaGraphLaunch")) return error;
    counts.graph_launches++;
    for (const node &each : exec->nodes)
        if (const cudaError_t error = each.event ? record(each.event, stream) : enqueue(stream, each.run)) return error;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    const guard held(lock);
    run_everything();
    counts.live_handles--;
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    const guard held(lock);
    counts.live_handles--;
    delete graph;
    return cudaSuccess;
}

} /* extern "C" */
