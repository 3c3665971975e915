/* grammar.h - the demonstration's world: sentences grown from rules, the same ones for the same seed everywhere. */
#ifndef SALF_DEMO_GRAMMAR_H
#define SALF_DEMO_GRAMMAR_H

#include <stddef.h>
#include <stdint.h>

enum { GRAMMAR_TOPICS = 6, GRAMMAR_TEXT_SIZE = 1024 };

/* Names of the topics: animals, weather, food, sports, travel, music. */
const char *grammar_topic(int32_t topic);

/* Line number `index` of a text for pretraining: a story, a talk or a report about one topic. */
void grammar_story(uint64_t seed, uint64_t index, char *out, size_t size);

/* Example number `index`: a question or remark whose topic is to be found; *topic becomes it. */
void grammar_example(uint64_t seed, uint64_t index, int32_t *topic, char *out, size_t size);

#endif
