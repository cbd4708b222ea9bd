/* Splits texts at ASCII white space and ASCII pieces into tokens, and numbers the distinct ones.
 *
 * The same tokens as `TOKEN` of `tokenization.py`, restricted to ASCII. A piece with a byte beyond ASCII is one
 * item, which the caller splits.
 *
 * Legend: R texts, N items of all texts, U distinct items, S slots of the hash table.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { LONGEST = 64, SHORTENED = 3 }; /* characters of a token; of a run of ! or . */

/* Arguments of a call; see `tokens.py`. The table is `slots`, `hashes`, `starts` and `arena`. */
typedef struct {
    int64_t texts, negation;         /* R; whether n't is split off */
    int64_t slot_count;              /* S, a power of two */
    int64_t entry_room, arena_room;  /* for U; bytes */
    int64_t item_room;               /* for N; at least the bytes of all texts */
    int64_t text, place, items;      /* done so far: texts, bytes, N */
    int64_t entries;                 /* U */
    uint64_t seed;                   /* of the hash: texts made to collide cannot be written in advance */
    const uint8_t *bytes;            /* of all texts, in UTF-8 */
    const int64_t *ends;             /* (R,) of each text, ascending */
    int32_t *found;                  /* (N,) entry of each item */
    int64_t *counts;                 /* (R,) items of each text */
    uint64_t *slots;                 /* (S,) hash, and entry + 1 in the lower half; 0: free */
    uint32_t *hashes;                /* (U,) */
    int64_t *starts;                 /* (U + 1,) of each entry in the arena */
    uint8_t *arena;                  /* of all entries, each with a line feed after it */
} Tokens;

enum { SPACE = 1, WORD = 2, DIGIT = 4, FIRST = 8, EYES = 16, NOSE = 32, MOUTH = 64, HEAD = 128 };
static uint8_t kind[256]; /* of a byte: a set of the above */
#define IS(byte, of) (kind[byte] & (of))

static void mark(const char *bytes, uint8_t as) {
    for (; *bytes; bytes++) kind[(uint8_t)*bytes] |= as;
}

/* Fill `kind`; called once, before any other function. */
void tokens_begin(void) {
    memset(kind, 0, sizeof kind);
    mark("\t\n\v\f\r\x1c\x1d\x1e\x1f ", SPACE);
    mark("0123456789", DIGIT | WORD);
    mark("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_", WORD);
    mark("abcefgijklmnpqrstuvyzABCEFGHIJKLMNPQRSUVWYZ", FIRST); /* `_ONLY_WORDS` */
    mark(":;=8xX", EYES);
    mark("-o*'", NOSE);
    mark(")]([dDpP/\\|*3", MOUTH);
    mark(")]([dD/\\|", HEAD);
}

static const uint8_t *word_end(const uint8_t *at, const uint8_t *end) {
    while (at < end && IS(*at, WORD)) at++;
    return at;
}

/* End of a word that begins before `at`: with its apostrophes and hyphens. */
static const uint8_t *compound_end(const uint8_t *at, const uint8_t *end) {
    at = word_end(at, end);
    while (end - at >= 2 && (*at == '\'' || *at == '`' || *at == '-') && IS(at[1], WORD)) at = word_end(at + 2, end);
    return at;
}

static int no_word_at(const uint8_t *at, const uint8_t *end) { return at == end || !IS(*at, WORD); }

static int begins(const uint8_t *at, const uint8_t *end, const char *with) {
    const size_t size = strlen(with);
    return (size_t)(end - at) >= size && memcmp(at, with, size) == 0;
}

static int is_link(const uint8_t *at, const uint8_t *end) {
    return (begins(at, end, "http://") && end - at > 7) || (begins(at, end, "https://") && end - at > 8) ||
           (begins(at, end, "www.") && end - at > 4);
}

/* Mouths from `at`, as many as end before something else than a word; NULL: none. */
static const uint8_t *mouth_end(const uint8_t *at, const uint8_t *end) {
    const uint8_t *last = at;
    while (last < end && IS(*last, MOUTH)) last++;
    for (; last > at; last--)
        if (no_word_at(last, end)) return last;
    return NULL;
}

/* End of an emoticon such as :-) or (: from `at`; NULL: there is none. */
static const uint8_t *emoticon_end(const uint8_t *at, const uint8_t *end) {
    const uint8_t *eyes = at, *found;
    if (*eyes == '<' || *eyes == '>') eyes++;
    if (eyes < end && IS(*eyes, EYES)) {
        if (end - eyes >= 2 && IS(eyes[1], NOSE) && (found = mouth_end(eyes + 2, end))) return found;
        if ((found = mouth_end(eyes + 1, end))) return found;
    }
    if (!IS(*at, HEAD)) return NULL;
    for (int nose = 1; nose >= 0; nose--) {
        const uint8_t *last = at + 1 + nose;
        if (last >= end || (nose && !IS(at[1], NOSE))) continue;
        if ((*last == ':' || *last == ';' || *last == '=') && no_word_at(last + 1, end)) return last + 1;
    }
    return NULL;
}

/* End of a figure such as <3 ^_^ or o.O from `at`; NULL: there is none. */
static const uint8_t *figure_end(const uint8_t *at, const uint8_t *end) {
    const uint8_t *last = at + 1;
    if (*at == '<') {
        while (last < end && *last == '<') last++;
        if (last < end && *last == '/') last++;
        const uint8_t *threes = last;
        while (last < end && *last == '3') last++;
        if (last > threes) return last;
    }
    last = at + 1;
    if (*at == '^') {
        if (last < end && (*last == '_' || *last == '.')) last++;
        if (last < end && *last == '^') return last + 1;
    }
    if (*at != '-' && *at != 'o' && *at != 'O' && *at != '>' && *at != 'T') return NULL;
    last = at + 1;
    while (last < end && (*last == '.' || *last == '_')) last++;
    if (last == at + 1 || last == end) return NULL;
    const int right = *last == '-' || *last == 'o' || *last == 'O' || *last == '<' || *last == 'T';
    return right && no_word_at(last + 1, end) ? last + 1 : NULL;
}

/* End of a number with separators, such as 3.5 or 10:30, from `at`; NULL: there is none. */
static const uint8_t *number_end(const uint8_t *at, const uint8_t *end) {
    const uint8_t *last = at, *found = NULL;
    while (last < end && IS(*last, DIGIT)) last++;
    while (last > at && end - last >= 2 && (*last == '.' || *last == ',' || *last == ':') && IS(last[1], DIGIT)) {
        last += 2;
        while (last < end && IS(*last, DIGIT)) last++;
        found = last;
    }
    return found;
}

/* Return the end of the token from `at` < `end`, in the order of the alternatives of `TOKEN`. */
static const uint8_t *token_end(const uint8_t *at, const uint8_t *end) {
    const uint8_t *found;
    const uint8_t first = *at;
    if (IS(first, FIRST)) return compound_end(at + 1, end);
    if ((first == 'h' || first == 'w') && is_link(at, end)) return end;
    if (first == '@') return word_end(at + 1, end); /* alone it is a token, too */
    if ((found = emoticon_end(at, end)) || (found = figure_end(at, end))) return found;
    if (first == '#') return word_end(at + 1, end);
    if (IS(first, DIGIT) && (found = number_end(at, end))) return found;
    if (IS(first, WORD)) return compound_end(at + 1, end);
    if (first == '\'') return word_end(at + 1, end);
    if (first == '!' || first == '?') {
        for (found = at; found < end && (*found == '!' || *found == '?');) found++;
        return found;
    }
    for (found = at + 1; first == '.' && found < end && *found == '.';) found++;
    return found;
}

static uint64_t mixed(uint64_t a, uint64_t b) {
    const __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint32_t hash_of(const uint8_t *at, int64_t size, uint64_t seed) {
    uint64_t hashed = seed ^ (uint64_t)size;
    for (; size >= 8; size -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        hashed = mixed(hashed ^ word, seed ^ 0x9E3779B97F4A7C15u);
    }
    uint64_t word = 0;
    if (size >= 4) { /* two halves, which overlap */
        uint32_t low, high;
        memcpy(&low, at, 4);
        memcpy(&high, at + size - 4, 4);
        word = (uint64_t)high << 32 | low;
    } else if (size > 0) {
        word = (uint64_t)at[0] << 16 | (uint64_t)at[size >> 1] << 8 | at[size - 1];
    }
    hashed = mixed(hashed ^ word, seed ^ 0xD6E8FEB86659FD93u);
    return (uint32_t)(hashed ^ hashed >> 32);
}

static uint64_t slot_of(uint32_t hashed, int64_t entry) { return (uint64_t)hashed << 32 | (uint64_t)(entry + 1); }

/* Append the entry of an item, which is added to the table if it is new. */
static void add(Tokens *of, const uint8_t *at, int64_t size) {
    const uint32_t hashed = hash_of(at, size, of->seed);
    const int64_t mask = of->slot_count - 1;
    int64_t slot = hashed & mask, entry = -1;
    for (; of->slots[slot]; slot = (slot + 1) & mask) {
        if (of->slots[slot] >> 32 != hashed) continue;
        const int64_t known = (int64_t)(uint32_t)of->slots[slot] - 1, start = of->starts[known];
        if (of->starts[known + 1] - start - 1 == size && memcmp(of->arena + start, at, (size_t)size) == 0) {
            entry = known;
            break;
        }
    }
    if (entry < 0) {
        entry = of->entries++;
        uint8_t *to = of->arena + of->starts[entry];
        memcpy(to, at, (size_t)size);
        to[size] = '\n';
        of->starts[entry + 1] = of->starts[entry] + size + 1;
        of->hashes[entry] = hashed;
        of->slots[slot] = slot_of(hashed, entry);
    }
    of->found[of->items++] = (int32_t)entry;
}

/* Append the tokens of a piece of ASCII (see `normal_form`). */
static void add_tokens(Tokens *of, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        const uint8_t *last = token_end(at, end);
        const int64_t size = last - at;
        if (*at == '!' || *at == '?' || *at == '.') {
            add(of, at, size < SHORTENED ? size : SHORTENED);
        } else if (*at == '@' && size > 1) {
            add(of, (const uint8_t *)"<user>", 6);
        } else if ((*at == 'h' || *at == 'w') && is_link(at, last)) {
            add(of, (const uint8_t *)"<url>", 5);
        } else {
            add(of, at, size < LONGEST ? size : LONGEST);
        }
        at = last;
    }
}

static int is_negation(const uint8_t *at) {
    return (at[0] | 32) == 'n' && at[1] == '\'' && (at[2] | 32) == 't';
}

/* Append the tokens of a piece of ASCII, with n't split off (see `split_negations`). */
static void add_negated(Tokens *of, const uint8_t *start, const uint8_t *end) {
    const uint8_t *done = start;
    for (const uint8_t *at = start + 1; end - at >= 3;) {
        if (is_negation(at) && IS(at[-1], WORD) && !(at - start >= 3 && is_negation(at - 3)) &&
            no_word_at(at + 3, end)) {
            add_tokens(of, done, at);
            add_tokens(of, at, at + 3);
            done = at += 3;
        } else {
            at++;
        }
    }
    add_tokens(of, done, end);
}

/* Whether the table has room for all tokens of a piece: each has at least one byte and takes at most seven. */
static int has_room(const Tokens *of, int64_t size) {
    return of->entries + size <= of->entry_room && 2 * (of->entries + size) <= of->slot_count &&
           of->starts[of->entries] + 7 * size <= of->arena_room && of->items + size <= of->item_room;
}

/* Split texts, from where the last call ended. Return 0 at the end, 1 if the table needs more room: for that of
 * the piece at `place`, whose size `needed` gets. */
int64_t tokens_split(Tokens *of, int64_t *needed) {
    for (; of->text < of->texts; of->text++) {
        const uint8_t *at = of->bytes + of->place, *end = of->bytes + of->ends[of->text];
        const int64_t before = of->items;
        while (at < end) {
            if (IS(*at, SPACE)) {
                at++;
                continue;
            }
            const uint8_t *start = at;
            uint8_t any = 0, all = WORD, apostrophe = 0;
            for (; at < end && !IS(*at, SPACE); at++) {
                any |= *at;
                all &= kind[*at];
                apostrophe |= *at == '\'';
            }
            if (!has_room(of, at - start)) {
                *needed = at - start;
                of->counts[of->text] += of->items - before;
                of->place = start - of->bytes;
                return 1;
            }
            if (all) /* most pieces; every alternative that begins here takes the whole */
                add(of, start, at - start < LONGEST ? at - start : LONGEST);
            else if (any & 128)
                add(of, start, at - start);
            else if (of->negation && apostrophe)
                add_negated(of, start, at);
            else
                add_tokens(of, start, at);
        }
        of->counts[of->text] += of->items - before;
        of->place = of->ends[of->text];
    }
    return 0;
}

/* Fill the slots of a table, which are all free, from its entries. */
void tokens_rehash(Tokens *of) {
    const int64_t mask = of->slot_count - 1;
    for (int64_t entry = 0; entry < of->entries; entry++) {
        int64_t slot = of->hashes[entry] & mask;
        while (of->slots[slot]) slot = (slot + 1) & mask;
        of->slots[slot] = slot_of(of->hashes[entry], entry);
    }
}

/* Number of the version of these functions' arguments; see `tokens.py`. */
int64_t tokens_interface(void) { return 1; }
