/* stop.c - signals that ask a run to end: noted here, obeyed between two updates. */
#include "stop.h"

#include <signal.h>
#include <stddef.h>
#include <time.h>

/* Milliseconds in which a signal that comes again is the same one: a terminal that is closed sends SIGHUP by its shell
 * and by the kernel, `timeout` SIGTERM to the process and to its group. */
enum { ONE_ASKING = 1000 };

static volatile sig_atomic_t asked;

/* Who asks once more does not wait for the update at hand. */
static void note(int number) {
    static long long first;
    struct timespec clock;
    clock_gettime(CLOCK_MONOTONIC, &clock);
    const long long now = (long long)clock.tv_sec * 1000 + clock.tv_nsec / 1000000;
    if (!asked) {
        asked = number;
        first = now;
    } else if (now - first >= ONE_ASKING) {
        signal(number, SIG_DFL);
        raise(number); /* which comes when this handler has ended */
    }
}

/* SA_RESTART: reads and writes go on. One signal at a time: note has numbers of its own. */
void stop_watch(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    for (int i = 0; i < 3; i++) {
        struct sigaction now, noted = {.sa_handler = note, .sa_flags = SA_RESTART};
        sigfillset(&noted.sa_mask);
        if (sigaction(numbers[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN) sigaction(numbers[i], &noted, NULL);
    }
}

int stop_asked(void) {
    return asked;
}

const char *stop_name(void) {
    return asked == SIGINT ? "SIGINT" : asked == SIGTERM ? "SIGTERM" : "SIGHUP";
}

void stop_now(void) {
    signal(asked, SIG_DFL);
    raise(asked);
}
