/* stop.h - a run that is asked to end (SIGINT, SIGTERM, SIGHUP) ends where it can be gone on with. */
#ifndef SALF_EXAMPLE_STOP_H
#define SALF_EXAMPLE_STOP_H

/* From here on the first signal is only noted; one that comes a second later or more ends the process at once. What the
 * process was started to ignore (nohup) stays ignored. */
void stop_watch(void);
/* The signal that was noted; 0: none. */
int stop_asked(void);
/* Its name, "SIGTERM". */
const char *stop_name(void);
/* Ends the process by that signal, as who sent it expects: a shell's status is 128 and the signal's number. */
void stop_now(void);

#endif
