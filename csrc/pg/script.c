/* Prints the extension's SQL: a program of the build, so that the attention types come from attention.def alone and every function
 * has the same overloads over real[] and pgvector's types. */
#include "ruvector.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define PURE "IMMUTABLE STRICT PARALLEL SAFE"
#define READS "STABLE STRICT PARALLEL RESTRICTED"

/* In parameters, V is one vector (real[] or vector), M a matrix (real[] of two dimensions or vector[]). */
typedef struct function {
    const char *name, *parameters, *returns, *attributes, *symbol, *comment;
} function;

static const function functions[] = {
    {"ruvector_softmax", "scores real[]", "real[]", PURE " COST 10", "ruvector_softmax",
     "Softmax of the scores: positive numbers that sum to 1."},
    {"ruvector_attention_score", "query V, key V, attention_type text DEFAULT 'scaled_dot'", "real", PURE " COST 5",
     "ruvector_attention_score", "The score by which an attention type ranks a key for a query, before the softmax."},
    {"ruvector_attention_distance", "query V, key V", "double precision", PURE " COST 5", "ruvector_attention_distance",
     "Minus the attention score of type scaled_dot: the operator <@>."},
    {"ruvector_attention_scores", "query V, keys M, attention_type text DEFAULT 'scaled_dot'", "real[]", PURE " COST 100",
     "ruvector_attention_scores", "The attention weights of a query over all keys: they sum to 1."},
    {"ruvector_moe_route", "embedding V, num_experts integer DEFAULT 8, top_k integer DEFAULT 2", "jsonb", PURE " COST 100",
     "ruvector_moe_route", "The experts that a router sends an embedding to, and their weights, which sum to 1."},
    {"ruvector_hyperbolic_distance", "a V, b V, curvature double precision DEFAULT 1.0", "real", PURE " COST 5",
     "ruvector_hyperbolic_distance", "The distance of two points of the Poincare ball of radius 1 / sqrt(abs(curvature))."},
    {"ruvector_sliding_attention", "embeddings M, window_size integer DEFAULT 256, stride integer DEFAULT 128",
     "TABLE(\"position\" integer, output real[])", PURE " COST 1000 ROWS 1000", "ruvector_sliding_attention",
     "Self-attention inside windows that slide over a sequence; each position's mean over the windows that cover it."},
    {"ruvector_mha_search", "table_name regclass, query V, num_heads integer DEFAULT 8, k integer DEFAULT 10",
     "TABLE(id bigint, score real)", READS " COST 10000 ROWS 10", "ruvector_mha_search",
     "The k rows of a table that a query attends to most: the mean over heads of the attention weights over the whole table."},
    {"ruvector_mha_search", "table_name regclass, query V, num_heads integer, k integer, id_type anyelement",
     "TABLE(id anyelement, score real)", "STABLE PARALLEL RESTRICTED COST 10000 ROWS 10", "ruvector_mha_search",
     "As the function of four arguments, for tables whose key has the type of id_type."},
    /* no options: with four arguments a call of the search of this name would be ambiguous */
    {"ruvector_cross_attention", "query V, keys M, \"values\" M", "real[]", "IMMUTABLE PARALLEL SAFE COST 100",
     "ruvector_type_cross", "Attention of queries over the keys of another sequence."},
    {NULL, NULL, NULL, NULL, NULL, NULL}};

static const char base[] =
    "CREATE FUNCTION @extschema@.ruvector_version() RETURNS text\n"
    "AS 'MODULE_PATHNAME' LANGUAGE C " PURE ";\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_version() IS 'The version of the library.';\n\n"
    "CREATE FUNCTION @extschema@.ruvector_isa() RETURNS text\n"
    "AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_isa() IS 'The instruction set that this server computes with.';\n\n"
    "CREATE FUNCTION @extschema@.ruvector_attention_types()\n"
    "RETURNS TABLE(name text, complexity text, best_for text)\n"
    "AS 'MODULE_PATHNAME' LANGUAGE C " PURE " ROWS 20;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_attention_types() IS 'The attention types: cost and use.';\n\n"
    "CREATE FUNCTION @extschema@.ruvector_gat_search(node_table regclass, edge_table regclass, query_node_id bigint,\n"
    "    num_heads integer DEFAULT 4, k integer DEFAULT 10)\n"
    "RETURNS TABLE(node_id bigint, attention_score real)\n"
    "AS 'MODULE_PATHNAME' LANGUAGE C " READS " COST 10000 ROWS 10;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_gat_search(regclass, regclass, bigint, integer, integer)\n"
    "IS 'The in-neighbours of a node that it attends to most, with their attention weights.';\n\n"
    "CREATE FUNCTION @extschema@.ruvector_gat_search(node_table regclass, edge_table regclass, query_node_id uuid,\n"
    "    num_heads integer DEFAULT 4, k integer DEFAULT 10)\n"
    "RETURNS TABLE(node_id uuid, attention_score real)\n"
    "AS 'MODULE_PATHNAME' LANGUAGE C " READS " COST 10000 ROWS 10;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_gat_search(regclass, regclass, uuid, integer, integer)\n"
    "IS 'The in-neighbours of a node that it attends to most, with their attention weights.';\n\n"
    "CREATE FUNCTION @extschema@.ruvector_gat_search(node_table regclass, edge_table regclass, query_node_id text,\n"
    "    num_heads integer DEFAULT 4, k integer DEFAULT 10)\n"
    "RETURNS TABLE(node_id text, attention_score real)\n"
    "AS 'MODULE_PATHNAME' LANGUAGE C " READS " COST 10000 ROWS 10;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_gat_search(regclass, regclass, text, integer, integer)\n"
    "IS 'The in-neighbours of a node that it attends to most, with their attention weights.';\n\n"
    "CREATE FUNCTION @extschema@.ruvector_cross_attention(query_table regclass, query_column name, document_table regclass,\n"
    "    document_column name, attention_type text DEFAULT 'scaled_dot')\n"
    "RETURNS SETOF record\n"
    "AS 'MODULE_PATHNAME', 'ruvector_cross_search' LANGUAGE C " READS " COST 10000 ROWS 1000;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_cross_attention(regclass, name, regclass, name, text)\n"
    "IS 'The attention weights of every row of one table over all rows of another; needs AS (query_id ..., doc_id ..., score ...).';\n\n"
    "CREATE FUNCTION @extschema@.ruvector_cross_attention(query_table regclass, query_column name, document_table regclass,\n"
    "    document_column name, attention_type text, k integer)\n"
    "RETURNS TABLE(query_id bigint, doc_id bigint, score real)\n"
    "AS 'MODULE_PATHNAME', 'ruvector_cross_search' LANGUAGE C " READS " COST 10000 ROWS 1000;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_cross_attention(regclass, name, regclass, name, text, integer)\n"
    "IS 'Of the attention weights of every row of one table over all rows of another, the k largest of each.';\n\n"
    "CREATE FUNCTION @extschema@.ruvector_attention_final(internal) RETURNS real[]\n"
    "AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_attention_final(internal) IS 'Of the aggregate ruvector_attention.';\n"
    "CREATE FUNCTION @extschema@.ruvector_attention_combine(internal, internal) RETURNS internal\n"
    "AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_attention_combine(internal, internal) IS 'Of the aggregate ruvector_attention.';\n"
    "CREATE FUNCTION @extschema@.ruvector_attention_serial(internal) RETURNS bytea\n"
    "AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_attention_serial(internal) IS 'Of the aggregate ruvector_attention.';\n"
    "CREATE FUNCTION @extschema@.ruvector_attention_deserial(bytea, internal) RETURNS internal\n"
    "AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_attention_deserial(bytea, internal) IS 'Of the aggregate ruvector_attention.';\n\n";

static const char operators[] =
    "CREATE FUNCTION @extschema@.ruvector_l2_distance(@vector@.vector, real[]) RETURNS double precision\n"
    "AS 'SELECT $1 OPERATOR(@vector@.<->) $2::@vector@.vector' LANGUAGE sql IMMUTABLE PARALLEL SAFE;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_l2_distance(@vector@.vector, real[]) IS 'The operator <->, which indexes serve.';\n"
    "CREATE FUNCTION @extschema@.ruvector_l2_distance(real[], @vector@.vector) RETURNS double precision\n"
    "AS 'SELECT $2 OPERATOR(@vector@.<->) $1::@vector@.vector' LANGUAGE sql IMMUTABLE PARALLEL SAFE;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_l2_distance(real[], @vector@.vector) IS 'The operator <->, which indexes serve.';\n"
    "CREATE OPERATOR @extschema@.<-> (LEFTARG = @vector@.vector, RIGHTARG = real[],\n"
    "    FUNCTION = @extschema@.ruvector_l2_distance, COMMUTATOR = OPERATOR(@extschema@.<->));\n"
    "COMMENT ON OPERATOR @extschema@.<-> (@vector@.vector, real[]) IS 'Euclidean distance';\n"
    "CREATE OPERATOR @extschema@.<-> (LEFTARG = real[], RIGHTARG = @vector@.vector,\n"
    "    FUNCTION = @extschema@.ruvector_l2_distance, COMMUTATOR = OPERATOR(@extschema@.<->));\n"
    "COMMENT ON OPERATOR @extschema@.<-> (real[], @vector@.vector) IS 'Euclidean distance';\n\n"
    "CREATE FUNCTION @extschema@.ruvector_attention_handler(internal) RETURNS index_am_handler\n"
    "AS 'MODULE_PATHNAME' LANGUAGE C;\n"
    "COMMENT ON FUNCTION @extschema@.ruvector_attention_handler(internal) IS 'Of the access method ruvector_attention.';\n"
    "CREATE ACCESS METHOD ruvector_attention TYPE INDEX HANDLER @extschema@.ruvector_attention_handler;\n"
    "COMMENT ON ACCESS METHOD ruvector_attention IS 'Nearest keys by attention score, in the graph of pgvector''s hnsw.';\n"
    "CREATE OPERATOR CLASS @extschema@.ruvector_attention_ops DEFAULT FOR TYPE @vector@.vector USING ruvector_attention AS\n"
    "    OPERATOR 1 @extschema@.<@> (@vector@.vector, @vector@.vector) FOR ORDER BY pg_catalog.float_ops,\n"
    "    FUNCTION 1 @vector@.vector_negative_inner_product(@vector@.vector, @vector@.vector);\n"
    "COMMENT ON OPERATOR CLASS @extschema@.ruvector_attention_ops USING ruvector_attention IS 'Order by <@>.';\n\n";

static void quoted(const char *text)
{
    putchar('\'');
    for (; *text; text++) {
        if (*text == '\'')
            putchar('\'');
        putchar(*text);
    }
    putchar('\'');
}

static int slots(const char *parameters)
{
    int count = 0;
    for (const char *p = parameters; *p; p++)
        count += p[0] == ' ' && (p[1] == 'V' || p[1] == 'M') && (p[2] == ',' || !p[2]);
    return count;
}

/* Parameters with slot i over pgvector's types where bit i is set; without `full` only types, as COMMENT needs them. */
static void parameters_of(const char *p, int vectors, int full)
{
    int at = 0, skip = !full, quotes = 0;
    for (; *p; p++) {
        int slot = p[0] == ' ' && (p[1] == 'V' || p[1] == 'M') && (p[2] == ',' || !p[2]);
        if (!full && !strncmp(p, " DEFAULT", 8))
            while (*p && (*p != ',' || quotes)) {
                quotes ^= *p == '\'';
                p++;
            }
        if (!*p)
            break;
        if (*p == ',') {
            printf(", ");
            skip = !full;
            p++;
            continue;
        }
        if (slot) {
            printf("%s%s%s", full ? " " : "", vectors >> at & 1 ? "@vector@.vector" : "real[]",
                   vectors >> at & 1 && p[1] == 'M' ? "[]" : "");
            at++;
            p++;
            skip = 0;
        } else if (skip) {
            skip = *p != ' ';
        } else {
            putchar(*p);
        }
    }
}

static void print_function(const function *f, int vectors)
{
    printf("CREATE FUNCTION @extschema@.%s(", f->name);
    parameters_of(f->parameters, vectors, 1);
    printf(") RETURNS %s\nAS 'MODULE_PATHNAME', '%s' LANGUAGE C %s;\nCOMMENT ON FUNCTION @extschema@.%s(", f->returns, f->symbol,
           f->attributes, f->name);
    parameters_of(f->parameters, vectors, 0);
    printf(") IS ");
    quoted(f->comment);
    printf(";\n\n");
}

/* All overloads of a function over real[] alone, or all others. */
static void overloads(const function *f, int with_vectors)
{
    int count = 1 << slots(f->parameters);
    for (int vectors = with_vectors ? 1 : 0; vectors < (with_vectors ? count : 1); vectors++)
        print_function(f, vectors);
}

/* The function of an attention type: its parameters follow query, keys and values. */
typedef struct type {
    const char *name, *best_for;
    rv_param params[8];
    int count;
} type;

static void type_function(const type *t, int with_vectors)
{
    char name[128], symbol[128], parameters[2048], comment[512];
    char *at = parameters;
    if (!strcmp(t->name, "cross"))
        return; /* its name is a search's too: among the functions above */
    snprintf(name, sizeof name, "ruvector_%s_attention", strcmp(t->name, "flash_v2") ? t->name : "flash");
    snprintf(symbol, sizeof symbol, "ruvector_type_%s", t->name);
    at += sprintf(at, "query V, keys M, \"values\" M");
    for (int i = 0; i < t->count; i++) {
        const rv_param *p = t->params + i;
        if (p->type[0] == 'a') {
            at += sprintf(at, ", %s double precision[] DEFAULT NULL", p->name);
        } else if (strchr(p->type, '|')) {
            at += sprintf(at, ", %s text DEFAULT '%.*s'", p->name, (int)strcspn(p->type, "|"), p->type);
        } else if (p->type[0] == 'b') {
            at += sprintf(at, ", %s boolean DEFAULT %s", p->name, p->value != 0 ? "true" : "false");
        } else {
            at += sprintf(at, ", %s %s DEFAULT %.17g", p->name, p->type[0] == 'i' ? "integer" : "double precision", p->value);
        }
    }
    if (strcmp(t->name, "causal"))
        at += sprintf(at, ", causal boolean DEFAULT false");
    if (strcmp(t->name, "linear"))
        at += sprintf(at, ", scale double precision DEFAULT NULL");
    snprintf(comment, sizeof comment, "Attention of type %s: %s.", t->name, t->best_for);
    function f = {name, parameters, "real[]", "IMMUTABLE PARALLEL SAFE COST 100", symbol, comment};
    overloads(&f, with_vectors);
}

static void type_functions(int with_vectors)
{
    type t;
#define RV_TYPE(type_name, aliases, complexity, use, ...) \
    memset(&t, 0, sizeof t); \
    t.name = #type_name; \
    t.best_for = use;
#define RV_PARAM(name, type, value, low, high, text) t.params[t.count++] = (rv_param){#name, type, value, low, high, text};
#define RV_END(name) type_function(&t, with_vectors);
#include "attention.def"
}

static void aggregates(int with_vectors)
{
    for (int options = 0; options < 2; options++)
        for (int vectors = with_vectors ? 1 : 0; vectors < (with_vectors ? 8 : 1); vectors++) {
            const char *given = options ? "query V, key V, value V, options jsonb" : "query V, key V, value V";
            char step[128];
            snprintf(step, sizeof step, "state internal, %s", given);
            function f = {"ruvector_attention_step", step, "internal", "IMMUTABLE PARALLEL SAFE COST 5", "ruvector_attention_step",
                          "Of the aggregate ruvector_attention."};
            print_function(&f, vectors);
            printf("CREATE AGGREGATE @extschema@.ruvector_attention(");
            parameters_of(given, vectors, 1);
            printf(") (\n    SFUNC = @extschema@.ruvector_attention_step, STYPE = internal, SSPACE = 8192,\n"
                   "    FINALFUNC = @extschema@.ruvector_attention_final, COMBINEFUNC = @extschema@.ruvector_attention_combine,\n"
                   "    SERIALFUNC = @extschema@.ruvector_attention_serial, DESERIALFUNC = @extschema@.ruvector_attention_deserial,\n"
                   "    PARALLEL = SAFE);\nCOMMENT ON AGGREGATE @extschema@.ruvector_attention(");
            parameters_of(given, vectors, 0);
            printf(") IS 'Attention of a query over the keys and values of the rows.';\n\n");
        }
}

static void distance_operators(int with_vectors)
{
    for (int vectors = with_vectors ? 1 : 0; vectors < (with_vectors ? 4 : 1); vectors++) {
        const char *left = vectors & 1 ? "@vector@.vector" : "real[]", *right = vectors & 2 ? "@vector@.vector" : "real[]";
        const char *function = "ruvector_attention_distance";
        if (vectors == 1 || vectors == 2) {
            /* inlined, so that an index on the vector serves it */
            function = "ruvector_attention_order";
            printf("CREATE FUNCTION @extschema@.%s(%s, %s) RETURNS double precision\n"
                   "AS 'SELECT %s OPERATOR(@extschema@.<@>) %s' LANGUAGE sql IMMUTABLE PARALLEL SAFE;\n"
                   "COMMENT ON FUNCTION @extschema@.%s(%s, %s) IS 'The operator <@>, which indexes serve.';\n",
                   function, left, right, vectors == 1 ? "$1" : "$2", vectors == 1 ? "$2::@vector@.vector" : "$1::@vector@.vector",
                   function, left, right);
        }
        printf("CREATE OPERATOR @extschema@.<@> (LEFTARG = %s, RIGHTARG = %s,\n"
               "    FUNCTION = @extschema@.%s, COMMUTATOR = OPERATOR(@extschema@.<@>));\n"
               "COMMENT ON OPERATOR @extschema@.<@> (%s, %s) IS 'Minus the attention score';\n\n", left, right, function, left, right);
    }
}

static void everything(int with_vectors)
{
    for (const function *f = functions; f->name; f++)
        overloads(f, with_vectors);
    type_functions(with_vectors);
    aggregates(with_vectors);
    distance_operators(with_vectors);
}

int main(void)
{
    printf("-- Made by script.c from the catalogue of attention types.\n"
           "\\echo Use \"CREATE EXTENSION ruvector_postgres\" to load this file. \\quit\n\n%s", base);
    everything(0);
    printf("CREATE FUNCTION @extschema@.ruvector_require_vector() RETURNS void\n"
           "AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;\n"
           "COMMENT ON FUNCTION @extschema@.ruvector_require_vector() IS 'Of the installation.';\n\n"
           "DO $install$\nDECLARE\n    home pg_catalog.name;\nBEGIN\n"
           "    SELECT n.nspname INTO home FROM pg_catalog.pg_extension e\n"
           "        JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace\n"
           "        WHERE e.extname OPERATOR(pg_catalog.=) 'vector'::pg_catalog.name;\n"
           "    IF home IS NULL THEN\n"
           "        RAISE NOTICE 'pgvector is not in this database: functions over vector and the index are left out'\n"
           "            USING HINT = 'CREATE EXTENSION vector, then drop and create ruvector_postgres.';\n"
           "        RETURN;\n    END IF;\n"
           "    IF home OPERATOR(pg_catalog.~) '[\"$''\\\\]' THEN\n"
           "        RAISE EXCEPTION 'the schema of pgvector must not have any of \"$''\\ in its name: %%', home\n"
           "            USING ERRCODE = 'invalid_schema_name';\n    END IF;\n"
           "    PERFORM @extschema@.ruvector_require_vector();\n"
           "    EXECUTE pg_catalog.replace($vector$\n");
    everything(1);
    printf("%s", operators);
    printf("$vector$, '@vector@', pg_catalog.quote_ident(home));\nEND $install$;\n\n"
           "DROP FUNCTION @extschema@.ruvector_require_vector();\n");
    return 0;
}
