/* Searches over tables. A table is a regclass, its columns are looked up in the catalogue, identifiers are quoted and values are
 * parameters; queries run read-only with the caller's rights and row security. Rows come in the order of their keys, so that a
 * result does not depend on where they lie. */
#include "pg.h"

#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include <math.h>

#define FETCH 512

typedef struct column {
    char name[NAMEDATALEN];
    Oid type;
    bool array;         /* of real, rather than a vector */
} column;

/* Keys and embeddings of a table, by key. */
typedef struct table {
    Oid id_type;
    int16 id_len;
    bool id_byval;
    Datum *ids;
    float *rows;
    int64 count, room, dim;
} table;

static char *relation_name(Oid relation)
{
    char *name = get_rel_name(relation);
    if (!name)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation with OID %u does not exist", relation)));
    return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)), name);
}

static bool read_column(Oid relation, AttrNumber number, column *c)
{
    HeapTuple tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relation), Int16GetDatum(number));
    if (!HeapTupleIsValid(tuple))
        return false;
    Form_pg_attribute form = (Form_pg_attribute)GETSTRUCT(tuple);
    bool found = !form->attisdropped;
    if (found) {
        strlcpy(c->name, NameStr(form->attname), NAMEDATALEN);
        c->type = getBaseType(form->atttypid);
        c->array = c->type == FLOAT4ARRAYOID;
    }
    ReleaseSysCache(tuple);
    return found;
}

static int columns_of(Oid relation)
{
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
    int count = 0;
    if (HeapTupleIsValid(tuple)) {
        count = ((Form_pg_class)GETSTRUCT(tuple))->relnatts;
        ReleaseSysCache(tuple);
    }
    return count;
}

static bool find_column(Oid relation, const char *name, column *c)
{
    AttrNumber number = get_attnum(relation, name);
    return number > 0 && read_column(relation, number, c);
}

/* pgvector's type wherever it was installed: named vector, and read by a function of its library. Names are compared first: the
 * library is not loaded, nor need it be there, for a type of a user's own. */
static bool is_embedding(const column *c)
{
    if (c->array)
        return true;
    HeapTuple tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(c->type));
    bool found = false;
    if (HeapTupleIsValid(tuple)) {
        Form_pg_type form = (Form_pg_type)GETSTRUCT(tuple);
        char *reader = OidIsValid(form->typinput) ? get_func_name(form->typinput) : NULL;
        if (!strcmp(NameStr(form->typname), "vector") && form->typlen == -1 && reader && !strcmp(reader, "vector_in")) {
            FmgrInfo input;
            fmgr_info(form->typinput, &input);
            found = input.fn_addr == load_external_function("$libdir/vector", "vector_in", false, NULL);
        }
        ReleaseSysCache(tuple);
    }
    return found;
}

static column embedding_of(Oid relation)
{
    column c, found = {0};
    int count = 0;
    if (find_column(relation, "embedding", &c) && is_embedding(&c))
        return c;
    for (AttrNumber i = 1; i <= columns_of(relation); i++)
        if (read_column(relation, i, &c) && is_embedding(&c)) {
            found = c;
            count++;
        }
    if (count != 1)
        ereport(ERROR, (errcode(count ? ERRCODE_AMBIGUOUS_COLUMN : ERRCODE_UNDEFINED_COLUMN),
                        errmsg("table %s has %s column of type vector or real[]", relation_name(relation), count ? "more than one" : "no"),
                        errhint("The column named \"embedding\" is taken, or the only one of these types.")));
    return found;
}

static column embedding_named(Oid relation, const char *name)
{
    column c;
    if (!find_column(relation, name, &c))
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN), errmsg("column \"%s\" of table %s does not exist", name, relation_name(relation))));
    if (!is_embedding(&c))
        ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                        errmsg("column \"%s\" of table %s has type %s, not vector or real[]", name, relation_name(relation),
                               format_type_be(c.type))));
    return c;
}

/* The column "id", or the only column of the primary key. Called inside SPI. */
static column key_of(Oid relation)
{
    column c;
    if (find_column(relation, "id", &c))
        return c;
    Oid types[] = {OIDOID};
    Datum values[] = {ObjectIdGetDatum(relation)};
    if (SPI_execute_with_args("SELECT i.indkey[0] FROM pg_catalog.pg_index i WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND i.indisprimary "
                              "AND i.indnkeyatts OPERATOR(pg_catalog.=) 1::pg_catalog.int2", 1, types, values, NULL, true, 1) == SPI_OK_SELECT
        && SPI_processed == 1) {
        bool null;
        Datum number = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null);
        if (!null && read_column(relation, DatumGetInt16(number), &c))
            return c;
    }
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                    errmsg("table %s has neither a column \"id\" nor a primary key of one column", relation_name(relation))));
}

static bool is_integer(Oid type) { return type == INT2OID || type == INT4OID || type == INT8OID; }

/* alias.column as an expression of the result's type. */
static char *key_as(const char *alias, const column *c, Oid relation, Oid type)
{
    if (c->type != type && !(is_integer(c->type) && is_integer(type)) && type != TEXTOID)
        ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                        errmsg("column \"%s\" of table %s has type %s, not %s", c->name, relation_name(relation),
                               format_type_be(c->type), format_type_be(type)),
                        errhint("The type of the keys can be chosen: see the other functions of this name.")));
    return psprintf("%s.%s::%s", alias, quote_identifier(c->name), format_type_be_qualified(type));
}

static void begin_table(table *t, Oid id_type)
{
    memset(t, 0, sizeof *t);
    t->id_type = id_type;
    get_typlenbyval(id_type, &t->id_len, &t->id_byval);
}

/* Called for every row (key, embedding) of a query. */
typedef void row_function(void *context, Datum id, rv_rows embedding);

static void for_rows(const char *query, bool array, int count, Oid *types, Datum *values, row_function *take, void *context)
{
    SPIPlanPtr plan = SPI_prepare(query, count, types);
    if (!plan)
        ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not prepare a search")));
    Portal portal = SPI_cursor_open(NULL, plan, values, NULL, true);
    MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "ruvector rows", ALLOCSET_DEFAULT_SIZES);
    for (;;) {
        SPI_cursor_fetch(portal, true, FETCH);
        uint64 got = SPI_processed;
        MemoryContext before = MemoryContextSwitchTo(scratch);
        for (uint64 i = 0; i < got; i++) {
            bool null;
            CHECK_FOR_INTERRUPTS();
            Datum id = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &null);
            Datum x = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &null);
            take(context, id, rv_pg_vector_of(x, array, "embedding"));
        }
        MemoryContextSwitchTo(before);
        MemoryContextReset(scratch);
        SPI_freetuptable(SPI_tuptable);
        if (got < FETCH)
            break;
    }
    SPI_cursor_close(portal);
    MemoryContextDelete(scratch);
}

typedef struct loading {
    table *t;
    MemoryContext home;
} loading;

static void load_row(void *context, Datum id, rv_rows x)
{
    loading *l = context;
    table *t = l->t;
    MemoryContext before = MemoryContextSwitchTo(l->home);
    if (t->count == 0)
        t->dim = x.dim;
    else if (t->dim != x.dim)
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
                        errmsg("embeddings must have the same dimensions: " INT64_FORMAT " vs " INT64_FORMAT, t->dim, x.dim)));
    if (t->count == t->room) {
        t->room = t->room ? 2 * t->room : FETCH;
        Size ids = (Size)t->room * sizeof *t->ids, rows = (Size)t->room * (Size)t->dim * sizeof *t->rows;
        t->ids = t->ids ? repalloc_huge(t->ids, ids) : MemoryContextAllocHuge(l->home, ids);
        t->rows = t->rows ? repalloc_huge(t->rows, rows) : MemoryContextAllocHuge(l->home, rows);
    }
    t->ids[t->count] = datumCopy(id, t->id_byval, t->id_len);
    memcpy(t->rows + t->count++ * t->dim, x.data, (Size)x.dim * sizeof *t->rows);
    MemoryContextSwitchTo(before);
}

static rv_rows keys_of(const table *t)
{
    rv_rows r = {t->rows, t->count, t->dim, false};
    return r;
}

static void load_table(table *t, MemoryContext home, Oid relation, const column *key, const column *embedding)
{
    loading l = {t, home};
    const char *x = quote_identifier(embedding->name), *id = quote_identifier(key->name);
    for_rows(psprintf("SELECT %s, t.%s FROM %s t WHERE t.%s IS NOT NULL AND t.%s IS NOT NULL ORDER BY t.%s",
                      key_as("t", key, relation, t->id_type), x, relation_name(relation), x, id, id),
             embedding->array, 0, NULL, NULL, load_row, &l);
}

static void check_k(int64 k)
{
    if (k < 1)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("k must be at least 1, got " INT64_FORMAT, k)));
}

/* The k largest scores, equal ones by number. */
static int64 top(const float *scores, int64 n, int64 k, float **values, int64 **indices)
{
    k = Min(k, n);
    *values = palloc_extended((Size)k * sizeof **values, MCXT_ALLOC_HUGE);
    *indices = palloc_extended((Size)k * sizeof **indices, MCXT_ALLOC_HUGE);
    rv_topk_args args = {.dtype = RV_F32, .mode = RV_TOPK_VALUES, .x = scores, .values = *values, .indices = (int64_t *)*indices,
                         .rows = 1, .n = n, .k = k, .threads = 1, .interrupted = rv_pg_interrupted};
    rv_pg_check(rv_topk_run(&args));
    return k;
}

static void put(ReturnSetInfo *set, int count, Datum *values)
{
    bool nulls[3] = {false};
    CHECK_FOR_INTERRUPTS();
    Assert(set->setDesc->natts == count);
    tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
}

PG_FUNCTION_INFO_V1(ruvector_mha_search);
Datum ruvector_mha_search(PG_FUNCTION_ARGS)
{
    for (int i = 0; i < 4; i++)
        if (PG_ARGISNULL(i)) {
            InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
            return (Datum)0;
        }
    MemoryContext home = CurrentMemoryContext;
    rv_site *site = rv_site_of(fcinfo);
    Oid relation = PG_GETARG_OID(0);
    rv_rows query = rv_pg_vector(fcinfo, site, 1, "query");
    int heads = PG_GETARG_INT32(2), k = PG_GETARG_INT32(3), type = rv_type_find("multi_head");
    double params[] = {heads};
    table t;
    rv_pg_check_param(rv_type_at(type)->params, heads);
    rv_pg_check_heads(type, params, query.dim, query.dim, query.dim);
    check_k(k);
    InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
    ReturnSetInfo *set = (ReturnSetInfo *)fcinfo->resultinfo;
    SPI_connect();
    column key = key_of(relation), embedding = embedding_of(relation);
    begin_table(&t, TupleDescAttr(set->setDesc, 0)->atttypid);
    load_table(&t, home, relation, &key, &embedding);
    SPI_finish();
    if (t.count == 0)
        return (Datum)0;
    float *weights = palloc_extended((Size)t.count * sizeof *weights, MCXT_ALLOC_HUGE), *scores;
    int64 *found;
    rv_pg_weights(type, params, query, keys_of(&t), NAN, weights);
    int64 count = top(weights, t.count, k, &scores, &found);
    for (int64 i = 0; i < count; i++)
        put(set, 2, (Datum[]){t.ids[found[i]], Float4GetDatum(scores[i])});
    return (Datum)0;
}

static void edge_columns(Oid relation, column *source, column *target)
{
    static const char *const names[][2] = {{"source", "target"}, {"src", "dst"}, {"source_id", "target_id"},
                                           {"src_id", "dst_id"}, {"from_id", "to_id"}, {"from_node", "to_node"}};
    for (int i = 0; i < lengthof(names); i++)
        if (find_column(relation, names[i][0], source) && find_column(relation, names[i][1], target))
            return;
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                    errmsg("table %s has no columns for the ends of its edges", relation_name(relation)),
                    errhint("They are source and target, src and dst, source_id and target_id, src_id and dst_id, "
                            "from_id and to_id, or from_node and to_node.")));
}

/* $1 for a comparison with a column. */
static const char *parameter_for(const column *c, Oid type)
{
    if (c->type == type || (is_integer(c->type) && is_integer(type)))
        return "$1";
    return psprintf("$1::%s", format_type_be_qualified(c->type));
}

PG_FUNCTION_INFO_V1(ruvector_gat_search);
Datum ruvector_gat_search(PG_FUNCTION_ARGS)
{
    MemoryContext home = CurrentMemoryContext;
    rv_site *site = rv_site_of(fcinfo);
    Oid nodes = PG_GETARG_OID(0), edges = PG_GETARG_OID(1), type = site->arg_type[2];
    Datum node = PG_GETARG_DATUM(2);
    int heads = PG_GETARG_INT32(3), k = PG_GETARG_INT32(4), multi_head = rv_type_find("multi_head");
    double params[] = {heads};
    column source, target;
    table query, t;
    rv_pg_check_param(rv_type_at(multi_head)->params, heads);
    check_k(k);
    InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
    ReturnSetInfo *set = (ReturnSetInfo *)fcinfo->resultinfo;
    SPI_connect();
    column key = key_of(nodes), embedding = embedding_of(nodes);
    edge_columns(edges, &source, &target);
    char *id = key_as("n", &key, nodes, type);
    const char *x = quote_identifier(embedding.name), *plain = quote_identifier(key.name);
    loading l = {&query, home};
    begin_table(&query, type);
    begin_table(&t, type);
    for_rows(psprintf("SELECT %s, n.%s FROM %s n WHERE n.%s OPERATOR(pg_catalog.=) %s AND n.%s IS NOT NULL", id, x, relation_name(nodes),
                      plain, parameter_for(&key, type), x), embedding.array, 1, &type, &node, load_row, &l);
    if (query.count == 0) {
        Oid output;
        bool varlena;
        getTypeOutputInfo(type, &output, &varlena);
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("query_node_id %s is no node of table %s with an embedding", OidOutputFunctionCall(output, node),
                               relation_name(nodes))));
    }
    rv_pg_check_heads(multi_head, params, query.dim, query.dim, query.dim);
    l.t = &t;
    for_rows(psprintf("SELECT %s, n.%s FROM %s e JOIN %s n ON n.%s OPERATOR(pg_catalog.=) e.%s "
                      "WHERE e.%s OPERATOR(pg_catalog.=) %s AND n.%s IS NOT NULL ORDER BY n.%s", id, x, relation_name(edges),
                      relation_name(nodes), plain, quote_identifier(source.name), quote_identifier(target.name),
                      parameter_for(&target, type), x, plain), embedding.array, 1, &type, &node, load_row, &l);
    SPI_finish();
    if (t.count == 0)
        return (Datum)0;
    float *weights = palloc_extended((Size)t.count * sizeof *weights, MCXT_ALLOC_HUGE), *scores;
    int64 *found, distinct = 0;
    rv_rows q = {query.rows, 1, query.dim, true};
    rv_pg_weights(multi_head, params, q, keys_of(&t), NAN, weights);
    /* a node with several edges counts once, with all their weight */
    for (int64 i = 0; i < t.count;) {
        double sum = 0;
        int64 first = i;
        for (; i < t.count && datumIsEqual(t.ids[i], t.ids[first], t.id_byval, t.id_len); i++)
            sum += weights[i];
        t.ids[distinct] = t.ids[first];
        weights[distinct++] = (float)sum;
    }
    int64 count = top(weights, distinct, k, &scores, &found);
    for (int64 i = 0; i < count; i++)
        put(set, 2, (Datum[]){t.ids[found[i]], Float4GetDatum(scores[i])});
    return (Datum)0;
}

typedef struct crossing {
    const table *documents;
    ReturnSetInfo *set;
    int type;
    int64 k;            /* 0: all, in the order of their keys */
    float *weights;
    const double *params;
} crossing;

static Datum score_datum(const crossing *c, float score)
{
    return TupleDescAttr(c->set->setDesc, 2)->atttypid == FLOAT4OID ? Float4GetDatum(score) : Float8GetDatum((double)score);
}

static void cross_row(void *context, Datum id, rv_rows query)
{
    const crossing *c = context;
    const table *t = c->documents;
    int64 *found, count = t->count;
    float *scores = c->weights;
    rv_pg_weights(c->type, c->params, query, keys_of(t), NAN, c->weights);
    if (c->k)
        count = top(c->weights, t->count, c->k, &scores, &found);
    for (int64 i = 0; i < count; i++)
        put(c->set, 3, (Datum[]){id, t->ids[c->k ? found[i] : i], score_datum(c, scores[i])});
    if (c->k) {
        pfree(scores);
        pfree(found);
    }
}

PG_FUNCTION_INFO_V1(ruvector_cross_search);
Datum ruvector_cross_search(PG_FUNCTION_ARGS)
{
    MemoryContext home = CurrentMemoryContext;
    rv_site *site = rv_site_of(fcinfo);
    Oid queries = PG_GETARG_OID(0), documents = PG_GETARG_OID(2);
    int type = rv_pg_type_arg(fcinfo, site, 4);
    int64 k = PG_NARGS() > 5 ? PG_GETARG_INT32(5) : 0;
    double params[RV_PG_MAX_PARAMS];
    table t;
    if (PG_NARGS() > 5)
        check_k(k);
    rv_pg_defaults(type, params);
    InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
    ReturnSetInfo *set = (ReturnSetInfo *)fcinfo->resultinfo;
    TupleDesc row = set->setDesc;
    Oid score = row->natts == 3 ? TupleDescAttr(row, 2)->atttypid : InvalidOid;
    if (score != FLOAT4OID && score != FLOAT8OID)
        ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                        errmsg("ruvector_cross_attention returns a query's key, a document's key and a score of type real or double precision"),
                        errhint("For example AS (query_id int, doc_id int, score float).")));
    SPI_connect();
    column query = embedding_named(queries, NameStr(*PG_GETARG_NAME(1))), document = embedding_named(documents, NameStr(*PG_GETARG_NAME(3)));
    column query_key = key_of(queries), document_key = key_of(documents);
    begin_table(&t, TupleDescAttr(row, 1)->atttypid);
    load_table(&t, home, documents, &document_key, &document);
    if (t.count > 0) {
        crossing c = {&t, set, type, k, MemoryContextAllocHuge(home, (Size)t.count * sizeof(float)), params};
        const char *x = quote_identifier(query.name), *id = quote_identifier(query_key.name);
        for_rows(psprintf("SELECT %s, q.%s FROM %s q WHERE q.%s IS NOT NULL AND q.%s IS NOT NULL ORDER BY q.%s",
                          key_as("q", &query_key, queries, TupleDescAttr(row, 0)->atttypid), x, relation_name(queries), x, id, id),
                 query.array, 0, NULL, NULL, cross_row, &c);
    }
    SPI_finish();
    return (Datum)0;
}
