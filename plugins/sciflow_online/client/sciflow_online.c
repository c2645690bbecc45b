/* The sciflow online protocol, solver side; docs/online-protocol.md describes the messages. */
#define _POSIX_C_SOURCE 200809L

#include "sciflow_online.h"

#include <errno.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#ifndef SCIFLOW_PROTOCOL
#define SCIFLOW_PROTOCOL 1
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "messages are little-endian, and this machine is not"
#endif

enum { HELLO = 1, ASK, DATA, INDEX, FINISH, ALIVE, LEAVE };
enum { WELCOME = 17, REFUSED, MEMBER, WAIT, BYE, CREDIT, FINISHED, ABORT };
enum { NONE, FLOAT32, FLOAT64, INT32, INT64, UINT8, DTYPES };
static const char *const DTYPE_NAMES[DTYPES] = {"", "float32", "float64", "int32", "int64", "uint8"};

struct header {
    char magic[4];
    uint16_t version;
    uint8_t kind, dtype;
    uint32_t field, rank;
    int64_t member;
    uint32_t attempt, ranks;
    int64_t level;
    double time;
    uint64_t start, count;
};

/* C99 has no static_assert: an array of -1 elements does not compile. */
#define LIES_AT(name, offset)                                                                                \
    typedef char name##_lies_at_##offset[offsetof(struct header, name) == offset ? 1 : -1]
LIES_AT(magic, 0);
LIES_AT(version, 4);
LIES_AT(kind, 6);
LIES_AT(dtype, 7);
LIES_AT(field, 8);
LIES_AT(rank, 12);
LIES_AT(member, 16);
LIES_AT(attempt, 24);
LIES_AT(ranks, 28);
LIES_AT(level, 32);
LIES_AT(time, 40);
LIES_AT(start, 48);
LIES_AT(count, 56);
typedef char a_header_has_64_bytes[sizeof(struct header) == 64 ? 1 : -1];
typedef char floats_have_their_size[sizeof(float) == 4 && sizeof(double) == 8 ? 1 : -1];

struct field {
    char *name;
    int dtype, timed;
    uint64_t size;
    int64_t level; /* of the last value sent, -1 before */
    double time;
};

struct line { /* to one trainer rank */
    char *endpoint;
    void *socket; /* NULL until it is needed */
    int64_t unacknowledged;
};

struct index {
    uint32_t field;
    uint64_t start, count;
    int64_t *positions;
    char *sent; /* to which trainer rank */
    struct index *next;
};

struct sciflow_client {
    uint32_t rank, ranks;
    char error[1024];
    int dead, said; /* said: the error belongs to the present member */
    char *token, *group, *of_member;
    double patience, heartbeat, last_heard, last_told; /* last_told: trainer rank 0 */
    void *context;
    struct line *lines;
    int trainers, spread_levels;
    int64_t credits;
    struct field *fields;
    int field_count;
    char **parameter_names;
    double *parameters;
    int parameter_count;
    struct index *indices;
    /* what the waiting functions look at */
    int welcomed, assigned, bye, aborted, finished, running;
    double ask_again; /* 0: an ASK is under way */
    int64_t had, member;
    uint32_t attempt;
    uint64_t seed;
    double since, blocked;
    int quiet;         /* nothing of this member is wanted */
    int sent;          /* calls of sciflow_send that were good */
    char unknown[128]; /* a field that this run does not take */
};

/* ---- words and numbers ---- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int fail(sciflow_client *c, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->error, sizeof c->error, format, arguments);
    va_end(arguments);
    c->said = 1;
    return SCIFLOW_ERROR;
}

/* An error after which nothing else can be done with this client. */
#define DIE(c, ...) ((c)->dead = 1, fail((c), __VA_ARGS__))

static char *copy(const char *text, size_t length)
{
    char *made = malloc(length + 1);
    if (made) {
        memcpy(made, text, length);
        made[length] = '\0';
    }
    return made;
}

/* A solver may have set a locale whose decimal sign is a comma; the protocol's is a point. */
static double number(const char *text)
{
    locale_t plain = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    locale_t before = plain ? uselocale(plain) : (locale_t)0;
    double value = strtod(text, NULL);
    if (plain) {
        uselocale(before);
        freelocale(plain);
    }
    return value;
}

/* Seconds as text, with a point, whatever the locale. */
static void seconds_text(char *out, size_t room, double seconds)
{
    long long micro = (long long)(seconds * 1e6);
    snprintf(out, room, "%lld.%06lld", micro / 1000000, micro % 1000000);
}

/* The value of `key: value` in a text of lines, to be freed; NULL if the key is not there. */
static char *entry(const char *text, const char *key)
{
    size_t length = strlen(key);
    while (*text) {
        size_t line = strcspn(text, "\n");
        if (line >= length + 2 && !strncmp(text, key, length) && text[length] == ':' &&
            text[length + 1] == ' ')
            return copy(text + length + 2, line - length - 2);
        text += line + (text[line] == '\n');
    }
    return NULL;
}

static char *entry_at(const char *text, const char *key, int i)
{
    char name[64];
    snprintf(name, sizeof name, "%s%d", key, i);
    return entry(text, name);
}

static double entry_number(const char *text, const char *key, double otherwise)
{
    char *said = entry(text, key);
    double value = said ? number(said) : otherwise;
    free(said);
    return value;
}

/* Replaces what would end a line of a control message. */
static void one_line(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ')
            *text = ' ';
}

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* ---- the address file ---- */

/* Where the value of a key begins. The file is the trainer's own, with distinct keys. */
static const char *json_value(const char *json, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *at = strstr(json, quoted);
    if (!at)
        return NULL;
    at += strlen(quoted);
    at += strspn(at, " \t\r\n");
    if (*at++ != ':')
        return NULL;
    return at + strspn(at, " \t\r\n");
}

/* A JSON string as text, to be freed; escapes beyond ASCII do not occur in this file. */
static char *json_string(const char *at)
{
    if (!at || *at++ != '"')
        return NULL;
    char *made = malloc(strlen(at) + 1), *out = made;
    for (; made && *at && *at != '"'; at++) {
        if (*at != '\\') {
            *out++ = *at;
        } else if (*++at == 'u' && strlen(at) > 4) {
            char hex[5] = {at[1], at[2], at[3], at[4], '\0'};
            *out++ = (char)strtol(hex, NULL, 16);
            at += 4;
        } else if (*at) {
            *out++ = *at;
        } else {
            break;
        }
    }
    if (made)
        *out = '\0';
    return made;
}

static char *file_text(const char *name)
{
    FILE *file = fopen(name, "rb");
    if (!file)
        return NULL;
    char *text = malloc(65536);
    if (text)
        text[fread(text, 1, 65535, file)] = '\0';
    fclose(file);
    return text;
}

/* The trainer may start later than the solver. */
static char *await_file(const char *name, double patience)
{
    struct timespec moment = {0, 100000000};
    double began = now();
    char *text;
    errno = 0;
    while (!(text = file_text(name)) && errno == ENOENT && now() - began < patience) {
        nanosleep(&moment, NULL);
        errno = ENOENT;
    }
    return text;
}

/* Reads token and first endpoint; the welcome names the others. */
static int read_address(sciflow_client *c, const char *name)
{
    if (!name)
        name = variable("SCIFLOW_ONLINE");
    if (!name)
        return DIE(c, "where is the trainer? Set SCIFLOW_ONLINE to the address file that it wrote");
    char *json = await_file(name, c->patience);
    if (!json && errno == ENOENT)
        return DIE(c, "no trainer wrote its address into %s within %.3g s: is it running?", name,
                   c->patience);
    if (!json)
        return DIE(c, "the address file %s cannot be read: %s", name, strerror(errno));
    const char *version = json_value(json, "protocol"), *list = json_value(json, "endpoints");
    int code = SCIFLOW_OK;
    c->token = json_string(json_value(json, "token"));
    c->lines[0].endpoint = list && *list == '[' ? json_string(list + 1 + strspn(list + 1, " \t\r\n")) : NULL;
    if (!version || !c->token || !c->lines[0].endpoint)
        code =
            DIE(c, "%s is no address file of a trainer: it needs \"protocol\", \"token\" and \"endpoints\"",
                name);
    else if (strtol(version, NULL, 10) != SCIFLOW_PROTOCOL)
        code = DIE(c,
                   "the trainer of %s speaks protocol version %ld, this solver was built with version %d: "
                   "build it with the client of the same sciflow",
                   name, strtol(version, NULL, 10), SCIFLOW_PROTOCOL);
    free(json);
    return code;
}

/* ---- which solver this is ---- */

static int find_group(sciflow_client *c, const char *group)
{
    char made[512], host[128] = "";
    const char *job = variable("SLURM_JOB_ID"), *step = variable("SLURM_STEP_ID");
    const char *again = variable("SLURM_RESTART_COUNT"), *world = variable("PMIX_NAMESPACE");
    if (!world)
        world = variable("OMPI_MCA_ess_base_jobid");
    if (!group)
        group = variable("SCIFLOW_GROUP");
    if (group) {
        snprintf(made, sizeof made, "%s", group);
    } else if (c->ranks == 1) {
        /* A process alone is a solver of its own, even if a job started many such. */
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        gethostname(host, sizeof host - 1);
        snprintf(made, sizeof made, "%s.%ld.%lld.%09ld", host, (long)getpid(), (long long)t.tv_sec,
                 t.tv_nsec);
    } else if (world) {
        /* Open MPI 4 numbers its worlds with 16 bits; the second variable is a random key of this one.
         * The step is left out: under mpirun it differs between the nodes. */
        const char *key = variable("OMPI_MCA_orte_precondition_transports");
        snprintf(made, sizeof made, "%s.%s.%s.%s", world, key ? key : "", job ? job : "", again ? again : "");
    } else if (job && step) {
        snprintf(made, sizeof made, "%s.%s.%s", job, step, again ? again : "");
    } else {
        return DIE(c,
                   "the ranks of this solver cannot find each other: neither mpirun nor Slurm says which job "
                   "this is; set SCIFLOW_GROUP to a text of its own for each solver");
    }
    one_line(made);
    c->group = copy(made, strlen(made));
    return c->group ? SCIFLOW_OK : DIE(c, "out of memory");
}

/* ---- sending ---- */

static struct header header_of(const sciflow_client *c, int kind)
{
    struct header h;
    memset(&h, 0, sizeof h);
    memcpy(h.magic, "SFLW", 4);
    h.version = SCIFLOW_PROTOCOL;
    h.kind = (uint8_t)kind;
    h.rank = c->rank;
    h.ranks = c->ranks;
    h.member = c->running ? c->member : -1;
    h.attempt = c->running ? c->attempt : 0;
    return h;
}

/* Takes over the payload. Queues have no limit of ZeroMQ: credits limit them, so nothing blocks here. */
static int post(sciflow_client *c, int j, const struct header *h, zmq_msg_t *payload)
{
    int rc;
    do
        rc = zmq_send(c->lines[j].socket, h, sizeof *h, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    while (rc >= 0 && (rc = zmq_msg_send(payload, c->lines[j].socket, ZMQ_DONTWAIT)) < 0 && errno == EINTR)
        rc = 0;
    if (rc < 0) {
        int why = errno;
        zmq_msg_close(payload);
        return DIE(c, "a message to %s could not be sent: %s", c->lines[j].endpoint, zmq_strerror(why));
    }
    if (j == 0)
        c->last_told = now();
    return SCIFLOW_OK;
}

static int post_bytes(sciflow_client *c, int j, const struct header *h, const void *bytes, size_t size)
{
    zmq_msg_t payload;
    if (zmq_msg_init_size(&payload, size))
        return DIE(c, "out of memory for a message of %zu bytes", size);
    if (size)
        memcpy(zmq_msg_data(&payload), bytes, size);
    return post(c, j, h, &payload);
}

static int post_kind(sciflow_client *c, int j, int kind, const char *text)
{
    struct header h = header_of(c, kind);
    return post_bytes(c, j, &h, text, strlen(text));
}

/* How many levels of this member were sent. */
static int64_t levels_sent(const sciflow_client *c)
{
    int64_t levels = 0;
    for (int i = 0; i < c->field_count; i++)
        if (c->fields[i].timed && c->fields[i].level >= levels)
            levels = c->fields[i].level + 1;
    return levels;
}

static void keep_alive(sciflow_client *c)
{
    if (!c->lines[0].socket || now() - c->last_told <= c->heartbeat)
        return;
    struct header h = header_of(c, ALIVE);
    h.level = levels_sent(c);
    post_bytes(c, 0, &h, "", 0);
}

/* Opens the connection to a trainer rank, if it is not open, and says who is there. */
static int open_line(sciflow_client *c, int j)
{
    struct line *line = &c->lines[j];
    char text[2048];
    int none = 0, linger = 1000;
    if (line->socket)
        return SCIFLOW_OK;
    line->socket = zmq_socket(c->context, ZMQ_DEALER);
    if (!line->socket)
        return DIE(c, "no socket for %s: %s", line->endpoint, zmq_strerror(errno));
    zmq_setsockopt(line->socket, ZMQ_SNDHWM, &none, sizeof none);
    zmq_setsockopt(line->socket, ZMQ_RCVHWM, &none, sizeof none);
    zmq_setsockopt(line->socket, ZMQ_LINGER, &linger, sizeof linger);
    if (strstr(line->endpoint, "//[")) {
        int six = 1;
        zmq_setsockopt(line->socket, ZMQ_IPV6, &six, sizeof six);
    }
    if (zmq_connect(line->socket, line->endpoint))
        return DIE(c, "%s is no address to connect to: %s", line->endpoint, zmq_strerror(errno));
    snprintf(text, sizeof text, "token: %s\ngroup: %s\nclient: c 1\nbeats: 0\n%s%s%s", c->token, c->group,
             c->of_member ? "member: " : "", c->of_member ? c->of_member : "", c->of_member ? "\n" : "");
    return post_kind(c, j, HELLO, text);
}

/* ---- receiving ---- */

/* `name dtype timed size`; a name may contain spaces, the rest does not. */
static int read_field(struct field *field, char *said)
{
    char *word[3];
    for (int i = 2; i >= 0; i--) {
        char *space = strrchr(said, ' ');
        if (!space)
            return 0;
        *space = '\0';
        word[i] = space + 1;
    }
    field->name = copy(said, strlen(said));
    for (int i = 1; i < DTYPES; i++)
        if (!strcmp(word[0], DTYPE_NAMES[i]))
            field->dtype = i;
    field->timed = !strcmp(word[1], "1");
    field->size = strtoull(word[2], NULL, 10);
    field->level = -1;
    return field->name && field->dtype;
}

static int read_fields(sciflow_client *c, const char *text)
{
    c->field_count = (int)entry_number(text, "fields", 0);
    c->fields = c->field_count > 0 ? calloc((size_t)c->field_count, sizeof *c->fields) : NULL;
    if (!c->fields)
        return c->field_count = 0, DIE(c, "the trainer's welcome names no fields");
    for (int i = 0; i < c->field_count; i++) {
        char *said = entry_at(text, "field", i);
        int good = said && read_field(&c->fields[i], said);
        free(said);
        if (!good)
            return DIE(c, "the trainer's welcome does not describe field %d", i);
    }
    return SCIFLOW_OK;
}

static int read_parameters(sciflow_client *c, const char *text)
{
    int count = (int)entry_number(text, "parameters", 0);
    if (count < 0)
        count = 0;
    c->parameter_names = calloc((size_t)count + 1, sizeof *c->parameter_names);
    c->parameters = calloc((size_t)count + 1, sizeof *c->parameters);
    if (!c->parameter_names || !c->parameters)
        return DIE(c, "out of memory");
    c->parameter_count = count;
    for (int i = 0; i < count; i++)
        if (!(c->parameter_names[i] = entry_at(text, "parameter", i)))
            return DIE(c, "the trainer's welcome does not name parameter %d", i);
    return SCIFLOW_OK;
}

static int read_welcome(sciflow_client *c, const char *text)
{
    int trainers = (int)entry_number(text, "trainers", 1);
    char *spread = entry(text, "spread");
    c->spread_levels = !spread || !strcmp(spread, "level");
    free(spread);
    c->credits = (int64_t)entry_number(text, "credits", 1);
    c->heartbeat = entry_number(text, "heartbeat", 10);
    if (trainers < 1 || c->credits < 1)
        return DIE(c, "the trainer's welcome speaks of %d trainers and %lld credits", trainers,
                   (long long)c->credits);
    struct line *lines = realloc(c->lines, (size_t)trainers * sizeof *lines);
    if (!lines)
        return DIE(c, "out of memory");
    c->lines = lines;
    for (; c->trainers < trainers; c->trainers++) {
        memset(&lines[c->trainers], 0, sizeof *lines);
        if (!(lines[c->trainers].endpoint = entry_at(text, "endpoint", c->trainers)))
            return DIE(c, "the trainer's welcome has no address of trainer rank %d", c->trainers);
    }
    int code = read_fields(c, text);
    c->welcomed = 1;
    return code ? code : read_parameters(c, text);
}

static int read_member(sciflow_client *c, const struct header *h, const char *text)
{
    char *seed = entry(text, "seed"), *purpose = entry(text, "purpose");
    c->quiet = purpose && !strcmp(purpose, "test");
    free(purpose);
    c->seed = seed ? strtoull(seed, NULL, 10) : 0;
    free(seed);
    for (int i = 0; i < c->parameter_count; i++) {
        char *said = entry_at(text, "p", i);
        if (!said)
            return DIE(c, "member %lld came without its parameter %s", (long long)h->member,
                       c->parameter_names[i]);
        c->parameters[i] = number(said);
        free(said);
    }
    c->member = h->member;
    c->attempt = h->attempt;
    c->assigned = 1;
    return SCIFLOW_OK;
}

/* Does this message speak of the attempt that is being computed? Others come late and mean nothing. */
static int of_this_attempt(const sciflow_client *c, const struct header *h)
{
    return (c->running || c->assigned) && h->member == c->member && h->attempt == c->attempt;
}

static int heard(sciflow_client *c, int j, const struct header *h, const char *text)
{
    char *reason = h->kind == REFUSED || h->kind == ABORT ? entry(text, "reason") : NULL;
    const char *why = reason ? reason : "no reason was given";
    int code = SCIFLOW_OK;
    /* A refusal is read whatever its version: it may say that the versions differ. */
    if (h->kind == REFUSED)
        code = DIE(c, "the trainer refused this solver: %s", why);
    else if (h->version != SCIFLOW_PROTOCOL)
        code = DIE(c,
                   "the trainer speaks protocol version %d, this solver was built with version %d: "
                   "build it with the client of the same sciflow",
                   h->version, SCIFLOW_PROTOCOL);
    else if (h->kind == WELCOME && j == 0 && !c->welcomed)
        code = read_welcome(c, text);
    else if (h->kind == MEMBER && !c->running && !c->assigned && h->level == c->had)
        code = read_member(c, h, text);
    else if (h->kind == WAIT)
        c->ask_again = now() + entry_number(text, "seconds", 1);
    else if (h->kind == BYE)
        c->bye = 1;
    else if (h->kind == CREDIT)
        c->lines[j].unacknowledged -= (int64_t)h->count;
    else if (h->kind == FINISHED && c->running && h->member == c->member)
        c->finished = 1;
    else if (h->kind == ABORT && of_this_attempt(c, h)) {
        c->aborted = 1;
        fail(c, "the trainer gave member %lld up: %s", (long long)h->member, why);
    }
    free(reason);
    return code;
}

/* Reads one message, if there is one: 1 read, 0 none, -1 the connection is of no use. */
static int take(sciflow_client *c, int j)
{
    void *socket = c->lines[j].socket;
    struct header h;
    char *text = NULL;
    int size, more = 0, readable = 0;
    size_t length = sizeof more;
    do
        size = zmq_recv(socket, &h, sizeof h, ZMQ_DONTWAIT);
    while (size < 0 && errno == EINTR);
    if (size < 0)
        return 0;
    readable = size == (int)sizeof h && !memcmp(h.magic, "SFLW", 4);
    while (!zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &length) && more) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, socket, 0) >= 0 && !text)
            text = copy(zmq_msg_data(&part), zmq_msg_size(&part));
        zmq_msg_close(&part);
    }
    if (readable) {
        c->last_heard = now();
        heard(c, j, &h, text ? text : "");
    } else {
        DIE(c, "%s does not speak the protocol of a sciflow trainer", c->lines[j].endpoint);
    }
    free(text);
    return c->dead ? -1 : 1;
}

/* Reads everything that is there; if nothing is, waits up to some seconds for it. */
static int listen_for(sciflow_client *c, double seconds)
{
    zmq_pollitem_t *items = calloc((size_t)c->trainers, sizeof *items);
    int *of = calloc((size_t)c->trainers, sizeof *of), open = 0;
    if (!items || !of) {
        free(items);
        free(of);
        return DIE(c, "out of memory");
    }
    for (int j = 0; j < c->trainers; j++)
        if (c->lines[j].socket) {
            items[open].socket = c->lines[j].socket;
            items[open].events = ZMQ_POLLIN;
            of[open++] = j;
        }
    if (zmq_poll(items, open, seconds > 0 ? (long)(seconds * 1000) + 1 : 0) > 0)
        for (int k = 0; k < open; k++)
            while (take(c, of[k]) == 1)
                ;
    free(items);
    free(of);
    return c->dead ? SCIFLOW_ERROR : SCIFLOW_OK;
}

/* ---- waiting ---- */

static int is_welcomed(const sciflow_client *c, int j) { return (void)j, c->welcomed; }
static int is_answered(const sciflow_client *c, int j)
{
    return (void)j, c->assigned || c->bye || c->ask_again > 0;
}
static int has_credit(const sciflow_client *c, int j)
{
    return c->aborted || c->lines[j].unacknowledged < c->credits;
}
static int is_finished(const sciflow_client *c, int j) { return (void)j, c->finished; }
static int is_drained(const sciflow_client *c, int j)
{
    return c->aborted || c->lines[j].unacknowledged <= 0;
}

/* Waits until something is so, but no longer in silence than the patience lasts. */
static int wait_until(sciflow_client *c, int (*so)(const sciflow_client *, int), int j, const char *what)
{
    double began = now();
    while (!so(c, j)) {
        double quiet = now() - (c->last_heard > began ? c->last_heard : began);
        if (quiet >= c->patience)
            return DIE(
                c,
                "the trainer at %s said nothing for %.3g s while this solver waited for %s: it has gone, or "
                "it is slower than SCIFLOW_ONLINE_PATIENCE (seconds)",
                c->lines[j].endpoint, c->patience, what);
        double next = c->patience - quiet;
        if (next > c->heartbeat)
            next = c->heartbeat;
        if (next > 1)
            next = 1;
        if (listen_for(c, next))
            return SCIFLOW_ERROR;
        keep_alive(c);
    }
    return SCIFLOW_OK;
}

/* What every call does first: is the client usable, has the trainer said something, is a sign of life due? */
static int begin(sciflow_client *c)
{
    if (!c || c->dead)
        return SCIFLOW_ERROR;
    if (listen_for(c, 0))
        return SCIFLOW_ERROR;
    keep_alive(c);
    return c->dead ? SCIFLOW_ERROR : SCIFLOW_OK;
}

/* ---- connect and close ---- */

static int connect_all(sciflow_client *c, const char *address_file, const char *group)
{
    const char *patience = variable("SCIFLOW_ONLINE_PATIENCE"), *member = variable("SCIFLOW_MEMBER");
    c->patience = patience ? number(patience) : 600;
    if (!(c->patience > 0))
        return DIE(c, "SCIFLOW_ONLINE_PATIENCE=%s is no number of seconds", patience);
    if (member && !(c->of_member = copy(member, strlen(member))))
        return DIE(c, "out of memory");
    if (c->of_member)
        one_line(c->of_member);
    if (read_address(c, address_file) || find_group(c, group))
        return SCIFLOW_ERROR;
    c->context = zmq_ctx_new();
    if (!c->context)
        return DIE(c, "ZeroMQ does not start: %s", zmq_strerror(errno));
    return open_line(c, 0) ? SCIFLOW_ERROR : wait_until(c, is_welcomed, 0, "its welcome");
}

sciflow_client *sciflow_connect(const char *address_file, const char *group, int rank, int ranks)
{
    sciflow_client *c = calloc(1, sizeof *c);
    struct line *lines = calloc(1, sizeof *lines);
    if (!c || !lines) {
        free(c);
        free(lines);
        return NULL;
    }
    c->lines = lines;
    c->trainers = 1;
    c->member = -1;
    c->heartbeat = 10;
    c->rank = (uint32_t)rank;
    c->ranks = (uint32_t)ranks;
    if (rank < 0 || rank >= ranks)
        DIE(c, "rank %d of %d ranks does not exist: ranks count from 0", rank, ranks);
    else
        connect_all(c, address_file, group);
    c->said = 0;
    return c;
}

static void forget_index(struct index *index)
{
    free(index->positions);
    free(index->sent);
    free(index);
}

void sciflow_close(sciflow_client *c)
{
    if (!c)
        return;
    for (int j = 0; j < c->trainers; j++) {
        if (c->lines[j].socket) {
            if (c->welcomed && !c->bye && j == 0)
                post_kind(c, j, LEAVE, "");
            zmq_close(c->lines[j].socket);
        }
        free(c->lines[j].endpoint);
    }
    while (c->context && zmq_ctx_term(c->context) < 0 && errno == EINTR)
        ;
    for (int i = 0; i < c->field_count; i++)
        free(c->fields[i].name);
    for (int i = 0; i < c->parameter_count; i++)
        free(c->parameter_names[i]);
    while (c->indices) {
        struct index *next = c->indices->next;
        forget_index(c->indices);
        c->indices = next;
    }
    free(c->lines);
    free(c->fields);
    free(c->parameter_names);
    free(c->parameters);
    free(c->token);
    free(c->group);
    free(c->of_member);
    free(c);
}

/* ---- members ---- */

/* One more name in a list, for a sentence. */
static void add_name(char *list, size_t room, const char *name)
{
    size_t used = strlen(list);
    snprintf(list + used, room - used, "%s%s", used ? ", " : "", name);
}

static int wrong_count(sciflow_client *c, int n)
{
    char names[512] = "";
    for (int i = 0; i < c->parameter_count; i++)
        add_name(names, sizeof names, c->parameter_names[i]);
    return fail(c, "this solver takes %d parameters, the problem has %d: %s", n, c->parameter_count, names);
}

/* Asks, and asks again as often as the answer is to wait. */
static int ask(sciflow_client *c)
{
    c->assigned = 0;
    while (!c->assigned && !c->bye) {
        struct header h = header_of(c, ASK);
        h.level = c->had;
        c->ask_again = 0;
        if (post_bytes(c, 0, &h, "", 0) || wait_until(c, is_answered, 0, "the next member"))
            return SCIFLOW_ERROR;
        while (!c->assigned && !c->bye && now() < c->ask_again) {
            double left = c->ask_again - now();
            if (listen_for(c, left < c->heartbeat ? left : c->heartbeat))
                return SCIFLOW_ERROR;
            keep_alive(c);
        }
    }
    return SCIFLOW_OK;
}

int sciflow_next(sciflow_client *c, double *parameters, int n)
{
    if (begin(c))
        return -1;
    if (c->running && !c->aborted)
        return fail(c, "member %lld is not finished: call sciflow_finish before sciflow_next",
                    (long long)c->member),
               -1;
    if (c->running && sciflow_finish(c, 0, NULL) == SCIFLOW_ERROR)
        return -1;
    c->running = c->aborted = c->finished = c->said = c->sent = 0;
    c->error[0] = c->unknown[0] = '\0';
    if (n != c->parameter_count)
        return wrong_count(c, n), -1;
    if (c->bye)
        return 0;
    if (ask(c))
        return -1;
    if (!c->assigned)
        return 0;
    if (n)
        memcpy(parameters, c->parameters, (size_t)n * sizeof *parameters);
    for (int i = 0; i < c->field_count; i++)
        c->fields[i].level = -1;
    c->assigned = 0;
    c->running = 1;
    c->had++;
    c->blocked = 0;
    c->since = now();
    return 1;
}

/* The number of the trainer rank that a level belongs to. */
static int owner(const sciflow_client *c, int64_t level)
{
    return (int)((c->member + (c->spread_levels ? level : 0)) % c->trainers);
}

/* -1: the run does not take this field, which is no mistake as long as it takes another one. */
static int find_field(sciflow_client *c, const char *name)
{
    for (int i = 0; i < c->field_count; i++)
        if (name && !strcmp(c->fields[i].name, name))
            return i;
    snprintf(c->unknown, sizeof c->unknown, "%s", name ? name : "(null)");
    return -1;
}

static struct index *find_index(const sciflow_client *c, uint32_t field, size_t start, size_t count)
{
    struct index *index = c->indices;
    while (index && (index->field != field || index->start != start || index->count != count))
        index = index->next;
    return index;
}

/* Fills a payload; 0 if a value is not finite, -1 if one is too large for float32. */
static int convert(void *out, int dtype, const double *values, size_t count)
{
    /* Without a way out of the loops the compiler can vectorise them. */
    int odd = 0, large = 0;
    for (size_t i = 0; i < count; i++)
        odd |= !isfinite(values[i]);
    if (odd)
        return 0;
    if (dtype == FLOAT64) {
        if (count)
            memcpy(out, values, count * sizeof *values);
        return 1;
    }
    for (size_t i = 0; i < count; i++)
        large |= fabs(values[i]) > FLT_MAX;
    for (size_t i = 0; !large && i < count; i++)
        ((float *)out)[i] = (float)values[i];
    return large ? -1 : 1;
}

/* Waits for room, then sends one part and, before the first that needs it, its positions. */
static int send_part(sciflow_client *c, int j, struct header *h, zmq_msg_t *payload, struct index *index)
{
    double began = now();
    int code = open_line(c, j);
    if (!code)
        code = wait_until(c, has_credit, j, "room for the next values");
    c->blocked += now() - began;
    if (!code && c->aborted)
        code = SCIFLOW_ABORTED;
    if (!code && index && !index->sent[j]) {
        struct header where = *h;
        where.kind = INDEX;
        where.dtype = INT64;
        where.level = 0;
        where.time = 0;
        code = post_bytes(c, j, &where, index->positions, index->count * sizeof *index->positions);
        index->sent[j] = 1;
    }
    if (code) {
        zmq_msg_close(payload);
        return code;
    }
    c->lines[j].unacknowledged++;
    return post(c, j, h, payload);
}

/* Is this a part of that field, at a time that may follow? */
static int check_part(sciflow_client *c, const struct field *f, double time, size_t start, size_t count,
                      const struct index *index)
{
    if (f->dtype != FLOAT32 && f->dtype != FLOAT64)
        return fail(c, "field %s holds %s; this client sends float32 and float64", f->name,
                    DTYPE_NAMES[f->dtype]);
    if (f->timed && !isfinite(time))
        return fail(c, "field %s was sent for a time that is not finite", f->name);
    if (f->timed && f->level >= 0 && time < f->time)
        return fail(c, "field %s was sent for time %.10g after %.10g: send the levels in the order of time",
                    f->name, time, f->time);
    if (!index && (start > f->size || count > f->size - start))
        return fail(c,
                    "field %s has %llu values in a level, but %zu values from number %zu on were sent: "
                    "is the solver's grid that of the problem?",
                    f->name, (unsigned long long)f->size, count, start);
    return SCIFLOW_OK;
}

/* To its owner, or to everybody where the field belongs to all levels. */
static int send_to_owners(sciflow_client *c, struct header *h, zmq_msg_t *payload, struct index *index,
                          int timed)
{
    int code = SCIFLOW_OK;
    for (int j = timed ? c->trainers : 0; j < c->trainers && !code; j++) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        zmq_msg_copy(&part, payload);
        code = send_part(c, j, h, &part, index);
    }
    if (!timed) {
        zmq_msg_close(payload);
        return code;
    }
    return send_part(c, owner(c, h->level), h, payload, index);
}

int sciflow_send(sciflow_client *c, double time, const char *name, const double *values, size_t start,
                 size_t count)
{
    if (begin(c))
        return SCIFLOW_ERROR;
    if (!c->running)
        return fail(c, "no member is being computed: call sciflow_next before sciflow_send");
    if (c->aborted)
        return SCIFLOW_ABORTED;
    int number_of_field = find_field(c, name);
    if (number_of_field < 0)
        return SCIFLOW_OK;
    struct field *f = &c->fields[number_of_field];
    struct index *index = find_index(c, (uint32_t)number_of_field, start, count);
    if (check_part(c, f, time, start, count, index))
        return SCIFLOW_ERROR;

    zmq_msg_t payload;
    if (zmq_msg_init_size(&payload, count * (f->dtype == FLOAT32 ? 4 : 8)))
        return DIE(c, "out of memory for %zu values of field %s", count, name);
    int good = convert(zmq_msg_data(&payload), f->dtype, values, count);
    if (good < 1) {
        zmq_msg_close(&payload);
        return good ? fail(c, "field %s is too large for float32 at time %.10g", name, time)
                    : fail(c, "field %s is not finite at time %.10g", name, time);
    }
    if (!f->timed || f->level < 0 || time > f->time)
        f->level = f->timed ? f->level + 1 : 0;
    f->time = time;
    c->sent++;
    if (!count || c->quiet) {
        zmq_msg_close(&payload);
        return SCIFLOW_OK;
    }
    struct header h = header_of(c, DATA);
    h.dtype = (uint8_t)f->dtype;
    h.field = (uint32_t)number_of_field;
    h.level = f->level;
    h.time = f->timed ? time : 0;
    h.start = start;
    h.count = count;
    return send_to_owners(c, &h, &payload, index, f->timed);
}

static struct index *new_index(sciflow_client *c, uint32_t field, size_t start, size_t count)
{
    struct index *index = calloc(1, sizeof *index);
    if (!index)
        return NULL;
    index->positions = calloc(count + 1, sizeof *index->positions);
    index->sent = calloc((size_t)c->trainers, 1);
    if (!index->positions || !index->sent) {
        forget_index(index);
        return NULL;
    }
    index->field = field;
    index->start = start;
    index->count = count;
    index->next = c->indices;
    return c->indices = index;
}

int sciflow_index(sciflow_client *c, const char *name, const int64_t *positions, size_t start, size_t count)
{
    if (begin(c))
        return SCIFLOW_ERROR;
    int field = find_field(c, name);
    if (field < 0)
        return SCIFLOW_OK;
    if (!count)
        return SCIFLOW_OK;
    for (size_t i = 0; i < count; i++)
        if (positions[i] < 0 || (uint64_t)positions[i] >= c->fields[field].size)
            return fail(c, "position %lld is outside of field %s, which has %llu values",
                        (long long)positions[i], name, (unsigned long long)c->fields[field].size);
    struct index *index = find_index(c, (uint32_t)field, start, count);
    if (!index && !(index = new_index(c, (uint32_t)field, start, count)))
        return DIE(c, "out of memory");
    if (memcmp(index->positions, positions, count * sizeof *positions)) {
        memcpy(index->positions, positions, count * sizeof *positions);
        memset(index->sent, 0, (size_t)c->trainers);
    }
    return SCIFLOW_OK;
}

static int post_finish(sciflow_client *c, int ok, const char *reason)
{
    char text[2048], spent[32], blocked[32], said[1024] = "";
    struct header h = header_of(c, FINISH);
    /* What the library found wrong will be wrong again; what the solver says may be bad luck. */
    int final = !ok && !reason && c->said && !c->aborted;
    if (!ok)
        snprintf(said, sizeof said, "%s", reason ? reason : c->error);
    one_line(said);
    seconds_text(spent, sizeof spent, now() - c->since);
    seconds_text(blocked, sizeof blocked, c->blocked);
    h.level = levels_sent(c);
    snprintf(text, sizeof text, "status: %s\nreason: %s\nfinal: %d\nseconds: %s\nblocked: %s\n",
             ok ? "ok" : "failed", said, final, spent, blocked);
    return post_bytes(c, 0, &h, text, strlen(text));
}

static int no_field_fits(sciflow_client *c)
{
    char names[512] = "";
    for (int i = 0; i < c->field_count; i++)
        add_name(names, sizeof names, c->fields[i].name);
    return fail(c, "this solver sent field %s; this run takes: %s", c->unknown, names);
}

int sciflow_finish(sciflow_client *c, int ok, const char *reason)
{
    if (begin(c))
        return SCIFLOW_ERROR;
    if (!c->running)
        return fail(c, "no member is being computed: call sciflow_next before sciflow_finish");
    int code = SCIFLOW_OK;
    double began = now();
    for (int j = 0; j < c->trainers && ok && !code; j++)
        code = wait_until(c, is_drained, j, "the trainer to take the last values");
    c->blocked += now() - began;
    if (code)
        return code;
    if (ok && !c->aborted && !c->sent && c->unknown[0])
        code = no_field_fits(c);
    if (post_finish(c, ok && !code && !c->aborted, c->aborted ? NULL : reason))
        return SCIFLOW_ERROR;
    if (wait_until(c, is_finished, 0, "the end of the member to be noted"))
        return SCIFLOW_ERROR;
    c->running = 0;
    return c->aborted ? SCIFLOW_ABORTED : code;
}

int sciflow_alive(sciflow_client *c)
{
    if (begin(c))
        return SCIFLOW_ERROR;
    return c->aborted ? SCIFLOW_ABORTED : SCIFLOW_OK;
}

const char *sciflow_error(const sciflow_client *c) { return c ? c->error : "out of memory"; }

int64_t sciflow_member(const sciflow_client *c) { return c ? c->member : -1; }

uint64_t sciflow_seed(const sciflow_client *c) { return c ? c->seed : 0; }
