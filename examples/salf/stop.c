/* stop.c - signals that ask a run to end: noted here, obeyed between two updates. */
#include "stop.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t asked;

static void note(int number) {
    asked = number;
}

/* SA_RESETHAND: who asks twice does not wait for the update at hand. SA_RESTART: reads and writes go on. */
void stop_watch(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    for (int i = 0; i < 3; i++) {
        struct sigaction now, noted = {.sa_handler = note, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
        sigemptyset(&noted.sa_mask);
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
