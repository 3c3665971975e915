/* grammar.c - a context-free grammar with three kinds of slots, expanded with a counter-based generator.
 *
 * In a rule, <x> is expanded from the shared rule x, <@x> from rule x of the text's topic, <~x> from rule x of another
 * topic drawn once a text. A text keeps one name and one place throughout, so that sentences hang together. Every
 * choice is splitmix64 of (seed, index, count). */
#include "grammar.h"

#include <stdio.h>
#include <string.h>

#include "rng.h"

typedef struct rule {
    const char *name;
    const char *choices; /* separated by '|' */
} rule;

static const char *const topics[GRAMMAR_TOPICS] = {"animals", "weather", "food", "sports", "travel", "music"};

/* Rules for all topics. <who> and <where> are the text's own name and place. */
static const rule shared[] = {
    {"name", "Anna|Ben|Clara|David|Emma|Finn|Grace|Henry|Ida|Jack|Kate|Leo|Mary|Noah|Olga|Paul|Rosa|Sam|Tina|Will"},
    {"kin", "mother|father|sister|brother|uncle|aunt|friend|teacher|neighbor|grandmother"},
    {"place", "town|village|garden|park|school|house|street|market|river|hill|lake|farm"},
    {"when",
     "today|yesterday|this morning|last week|on Monday|on Sunday|in the evening|every day|after school|at noon"},
    {"mood", "happy|sad|tired|excited|surprised|calm|proud|worried|curious|glad"},
    {"size", "big|small|old|new|fine|strange|quiet|lovely|first|favorite"},
    {"number", "two|three|four|five|six|seven|ten|many|a few"},
    {"close", "It was a good day.|Then it was time to go home.|They all laughed.|Everyone was <mood>.|"
              "After that, <who> felt <mood>.|It was the best part of the day."},
    {"said", "said|told everyone|explained|whispered|answered"},
    {"opening", "Once there was a <kin> named <who>.|<who> lived near the <where>.|<when>, <who> went to the <where>.|"
                "It was a <size> day at the <where>.|One day <who> felt <mood>."},
    {"body", "<who> saw <@thing>.|<who> wanted to <@act>.|The <kin> liked <@thing> very much.|"
             "There were <number> <@things> at the <where>.|\"Can we <@act>?\" asked <who>.|"
             "\"I like <@things>,\" <said> <who>.|The <@things> were <@quality>.|<@event>.|"
             "<who> had <@thing> that was <@quality>."},
    {"ask", "Why are <@things> <@quality>?|Can you <@act> at the <where>?|How many <@things> are there?|"
            "Do you like <@things>?|What is <@quality>?|Where can we find <@thing>?"},
    {"reply", "Yes, <@things> are <@quality>.|You can <@act> <when>.|There are <number> <@things> near the <where>.|"
              "I know that <@event>.|My <kin> likes to <@act>."},
    {"verdict", "It is about <@topic>.|This story is about <@topic>.|We talked about <@topic>.|"
                "That is what <@topic> is about.|It was all about <@topic>."},
    {"story", "<opening> <body> <body> <close>|<opening> <body> <body> <body> <close>|<opening> <body> <verdict>|"
              "<ask> <reply> <verdict>|<ask> <reply> <ask> <reply>|News from the <where>: <@event>. <body> <verdict>|"
              "<body> <verdict>|<opening> \"<ask>\" <said> <who>. \"<reply>\" <close>"},
    {"aside", "<who> saw <~thing> and then <@event>.|At the <where> with <~thing>, <who> wanted to <@act>.|"
              "It was not <~thing> but <@thing>.|My <kin> wants to <@act>, not <~act>."},
    {"example",
     "<ask>|<ask>|<@event>.|<body>|<body>|<opening> <body>|<aside>|<aside>|What does the <kin> know of <@thing>?|"
     "<who> wants to <@act> <when>.|Is it <@quality> at the <where>?|<when>, <@event>.|"
     "The <kin> had <number> <@things> and was <mood>."},
};

/* Rules of each topic. Many words and doings occur in several of them, so that no single word gives a topic away. */
static const rule own[GRAMMAR_TOPICS][6] = {
    {{"topic", "animals"},
     {"thing", "a dog|a cat|a horse|a bird|a fox|a rabbit|a fish|a bear|a cow|a mouse|a duck with a song|a wild goose"},
     {"things", "dogs|cats|horses|birds|foxes|rabbits|fish|bears|cows|mice|ducks|bees"},
     {"act", "feed the dog|ride a horse|watch the birds|pet the cat|look for a fox|follow the rabbit|catch a fish"},
     {"quality", "furry|wild|hungry|fast|gentle|shy|loud|asleep in the sun"},
     {"event", "the dog barked at the <place>|a bird built a nest|the cat slept all day|the fox ran into the forest|"
               "the cow gave milk|the horse jumped over a fence|the bear was looking for honey"}},
    {{"topic", "weather"},
     {"thing", "a storm|a cloud|a rainbow|the rain|the snow|the wind|some fog|the sun|a cold night|a drum of thunder"},
     {"things", "storms|clouds|raindrops|snowflakes|winds|sunny days|cold nights|warm mornings|icy roads"},
     {"act",
      "wait for the rain|play in the snow|sit in the sun|run from the storm|look at the clouds|hide from the wind"},
     {"quality", "cold|warm|wet|windy|gray|icy|loud|fast|cloudy|dry"},
     {"event", "it rained at the <place>|snow fell all night|the wind blew the hat away|the sun came out|"
               "thunder rolled over the hill|fog covered the road|the ice on the lake melted"}},
    {{"topic", "food"},
     {"thing", "a cake|some bread|an apple|a soup|a pie|some cheese|a fish for dinner|a cup of milk|some honey|an egg"},
     {"things", "cakes|apples|soups|pies|eggs|cookies|potatoes|carrots|sandwiches|berries"},
     {"act", "bake a cake|cook a soup|eat an apple|taste the pie|cut the bread|fry a fish|drink some milk"},
     {"quality", "sweet|salty|hot|cold|fresh|sour|warm|soft|hungry for"},
     {"event", "the cake burned in the oven|dinner was ready at the <place>|the soup was too hot|"
               "the cook cut the bread|the pie smelled sweet|the baker sold all the cookies|milk ran over the table"}},
    {{"topic", "sports"},
     {"thing", "a ball|a race|a game|a team|a goal|a match|a fast runner|a bat|a prize|a horse race"},
     {"things", "games|races|teams|goals|players|runners|matches|balls|swimmers|coaches"},
     {"act", "kick the ball|run a race|win the game|swim in the lake|join the team|throw the ball|watch the match"},
     {"quality", "fast|strong|ready|tired|loud|on the field|ahead by a goal|fair"},
     {"event", "the team won at the <place>|the runner fell near the end|the match ended in the rain|"
               "the player scored a goal|the coach blew a whistle|the swimmers raced over the lake|the bat broke"}},
    {{"topic", "travel"},
     {"thing", "a train|a ship|a map|a road|a ticket|a suitcase|a plane|a bridge|a hotel|a long road to the sea"},
     {"things", "trains|ships|maps|roads|tickets|planes|bridges|hotels|trips|islands"},
     {"act",
      "ride the train|sail over the sea|pack a suitcase|read the map|cross the bridge|fly to an island|buy a ticket"},
     {"quality", "late|far away|on time|slow|full|fast|long|abroad"},
     {"event", "the train left the <place>|the ship sailed at night|the plane was late because of snow|"
               "the bus crossed the bridge|the road went over the hill|a tourist lost the map|the hotel was full"}},
    {{"topic", "music"},
     {"thing", "a song|a piano|a drum|a guitar|a band|a choir|a flute|a violin|a concert|a tune"},
     {"things", "songs|drums|guitars|bands|singers|flutes|violins|concerts|tunes|dances"},
     {"act", "sing a song|play the piano|beat the drum|hear the band|dance to a tune|play the flute|tune the guitar"},
     {"quality", "loud|soft|slow|fast|in tune|sweet|quiet|low"},
     {"event", "the band played at the <place>|the singer forgot the words|the choir sang all night|"
               "a string of the violin broke|the drum was too loud|the flute sounded like a bird|the crowd danced"}},
};

/* A text while it grows. */
typedef struct grower {
    uint64_t seed, index;
    uint64_t count;          /* choices made */
    int32_t topic, other;    /* the text's own, and the one that it mentions in passing */
    char who[16], where[16]; /* its name and its place */
    char *out;               /* [size], of which n are written */
    size_t size, n;
} grower;

/* A number in 0 ... n-1 that follows from seed, index and count alone. */
static uint64_t draw_below(grower *g, uint64_t n) {
    return rng_hash(rng_hash(rng_hash(g->seed) ^ g->index) ^ g->count++) % n;
}

/* Appends text, as much as there is room for. */
static void emit_text(grower *g, const char *text, size_t n) {
    for (size_t i = 0; i < n && g->n + 1 < g->size; i++) g->out[g->n++] = text[i];
    g->out[g->n] = 0;
}

/* The choices of a rule: of the text's topic, of the other one, or shared. */
static const char *find_rule(const grower *g, const char *name, size_t n) {
    const int32_t topic = *name == '@' ? g->topic : *name == '~' ? g->other : -1;
    const rule *rules = topic < 0 ? shared : own[topic];
    const size_t count = topic < 0 ? sizeof shared / sizeof shared[0] : 6;
    if (topic >= 0) {
        name++;
        n--;
    }
    for (size_t i = 0; i < count; i++) {
        if (strlen(rules[i].name) == n && !strncmp(rules[i].name, name, n)) return rules[i].choices;
    }
    return "";
}

/* One of the choices; *n becomes its length. */
static const char *choose_one(grower *g, const char *choices, size_t *n) {
    uint64_t count = 1;
    for (const char *s = choices; *s; s++) count += *s == '|';
    for (uint64_t k = draw_below(g, count); k > 0; k--) choices = strchr(choices, '|') + 1;
    *n = strcspn(choices, "|");
    return choices;
}

/* The rules do not refer to themselves, so the depth of the recursion is at most that of the table. */
static void expand_rule(grower *g, const char *text, size_t n) {
    for (const char *end = text + n; text < end;) {
        const char *open = memchr(text, '<', (size_t)(end - text));
        if (!open) open = end;
        emit_text(g, text, (size_t)(open - text));
        if (open == end) return;
        const char *close = memchr(open, '>', (size_t)(end - open));
        const size_t length = (size_t)(close - open) - 1;
        if (!strncmp(open, "<who>", 5)) {
            emit_text(g, g->who, strlen(g->who));
        } else if (!strncmp(open, "<where>", 7)) {
            emit_text(g, g->where, strlen(g->where));
        } else {
            size_t part;
            const char *choice = choose_one(g, find_rule(g, open + 1, length), &part);
            expand_rule(g, choice, part);
        }
        text = close + 1;
    }
}

/* One choice of a rule as a text of its own: for what a text keeps. */
static void pick_text(grower *g, const char *name, char *out, size_t size) {
    size_t n;
    const char *choice = choose_one(g, find_rule(g, name, strlen(name)), &n);
    snprintf(out, size, "%.*s", (int)n, choice);
}

/* Sentences begin with a capital; what follows a closing quotation goes on. */
static void capitalise_sentences(char *text) {
    int start = 1;
    for (char previous = ' '; *text; previous = *text++) {
        if (start && *text >= 'a' && *text <= 'z') *text = (char)(*text - 'a' + 'A');
        if (*text == '.' || *text == '?') {
            start = 1;
        } else if (*text != ' ' && (*text != '"' || previous == '?')) {
            start = 0;
        }
    }
}

/* A text from one rule. Returns its topic. */
static int32_t grow_text(const char *start, uint64_t seed, uint64_t index, char *out, size_t size) {
    grower g = {.seed = seed, .index = index, .out = out, .size = size};
    size_t n;
    out[0] = 0;
    g.topic = (int32_t)draw_below(&g, GRAMMAR_TOPICS);
    g.other = (g.topic + 1 + (int32_t)draw_below(&g, GRAMMAR_TOPICS - 1)) % GRAMMAR_TOPICS;
    pick_text(&g, "name", g.who, sizeof g.who);
    pick_text(&g, "place", g.where, sizeof g.where);
    const char *choice = choose_one(&g, find_rule(&g, start, strlen(start)), &n);
    expand_rule(&g, choice, n);
    capitalise_sentences(out);
    return g.topic;
}

const char *grammar_topic(int32_t topic) {
    return topics[topic];
}

void grammar_story(uint64_t seed, uint64_t index, char *out, size_t size) {
    grow_text("story", seed, index, out, size);
}

void grammar_example(uint64_t seed, uint64_t index, int32_t *topic, char *out, size_t size) {
    *topic = grow_text("example", seed, index, out, size);
}
