/* The access method ruvector_attention: pgvector's hnsw with options of its own, and what an installation needs of pgvector.
 * Its routine is copied from the loaded library; only the options and the checks of a build are replaced. */
#include "pg.h"

#include "access/amapi.h"
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

/* What pgvector 0.8 reads of an index's options, which must come first; its ranges and defaults. */
typedef struct index_options {
    int32 vl_len_;
    int m;
    int ef_construction;
    int attention_type;         /* offset of a string */
    int num_heads, head_dim;    /* 0: not given */
} index_options;

static relopt_kind options_kind;

/* Types whose scores order keys as inner products do. */
static void check_attention_type(const char *value)
{
    if (!value)
        return;
    int index = rv_pg_type(value, (int)strlen(value));
    const char *family = rv_type_at(index)->family;
    if (!strcmp(family, "linear") || !strcmp(family, "hyperbolic"))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("attention type %s does not order keys by inner products", rv_type_at(index)->name)));
}

void rv_pg_index_init(void);

void rv_pg_index_init(void)
{
    options_kind = add_reloption_kind();
    add_int_reloption(options_kind, "m", "Most connections of a node in a layer", 16, 2, 100, AccessExclusiveLock);
    add_int_reloption(options_kind, "ef_construction", "Candidates while a node is placed", 64, 4, 1000, AccessExclusiveLock);
    add_string_reloption(options_kind, "attention_type", "A type that orders keys by inner products", "scaled_dot",
                         check_attention_type, AccessExclusiveLock);
    add_int_reloption(options_kind, "num_heads", "Heads; times head_dim they are the column's dimensions", 0, 0, RV_MAX_HEADS,
                      AccessExclusiveLock);
    add_int_reloption(options_kind, "head_dim", "Dimensions of a head", 0, 0, RV_PG_MAX_DIM, AccessExclusiveLock);
}

static bytea *read_options(Datum given, bool validate)
{
    static const relopt_parse_elt table[] = {
        {"m", RELOPT_TYPE_INT, offsetof(index_options, m)},
        {"ef_construction", RELOPT_TYPE_INT, offsetof(index_options, ef_construction)},
        {"attention_type", RELOPT_TYPE_STRING, offsetof(index_options, attention_type)},
        {"num_heads", RELOPT_TYPE_INT, offsetof(index_options, num_heads)},
        {"head_dim", RELOPT_TYPE_INT, offsetof(index_options, head_dim)},
    };
    return (bytea *)build_reloptions(given, validate, options_kind, sizeof(index_options), table, lengthof(table));
}

static void check_index(Relation index)
{
    const index_options *o = (const index_options *)index->rd_options;
    int dim = TupleDescAttr(RelationGetDescr(index), 0)->atttypmod;
    if (!o || dim < 0)
        return;
    if (o->num_heads && o->head_dim && o->num_heads * o->head_dim != dim)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("num_heads %d * head_dim %d must be the dimensions of the column, %d", o->num_heads, o->head_dim, dim)));
    if (o->num_heads && dim % o->num_heads)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("Query dimension %d must be divisible by num_heads %d", dim, o->num_heads)));
    if (o->head_dim && dim % o->head_dim)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("head_dim %d must divide the dimensions of the column, %d", o->head_dim, dim)));
}

static ambuild_function hnsw_build;
static ambuildempty_function hnsw_build_empty;

static IndexBuildResult *build(Relation heap, Relation index, struct IndexInfo *info)
{
    check_index(index);
    return hnsw_build(heap, index, info);
}

static void build_empty(Relation index)
{
    check_index(index);
    hnsw_build_empty(index);
}

/* pgvector's version in this database, NULL where it is not installed. */
static char *vector_version(Oid *extension)
{
    char *version = NULL;
    Relation catalog = table_open(ExtensionRelationId, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum("vector"));
    SysScanDesc scan = systable_beginscan(catalog, ExtensionNameIndexId, true, NULL, 1, &key);
    HeapTuple tuple = systable_getnext(scan);
    if (HeapTupleIsValid(tuple)) {
        bool null;
        Datum value = heap_getattr(tuple, Anum_pg_extension_extversion, RelationGetDescr(catalog), &null);
        version = null ? pstrdup("") : TextDatumGetCString(value);
        *extension = ((Form_pg_extension)GETSTRUCT(tuple))->oid;
    }
    systable_endscan(scan);
    table_close(catalog, AccessShareLock);
    return version;
}

static void refuse(void)
{
    Oid extension;
    char *version = vector_version(&extension);
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("indexes of type ruvector_attention need pgvector 0.8, this database has %s", version ? version : "none"),
                    errhint("They can be dropped, and made again as indexes USING hnsw.")));
}

static IndexBuildResult *refuse_build(Relation heap, Relation index, struct IndexInfo *info)
{
    refuse();
    return NULL;
}

static void refuse_empty(Relation index) { refuse(); }

static bool refuse_insert(Relation index, Datum *values, bool *nulls, ItemPointer tid, Relation heap, IndexUniqueCheck check,
                          bool unchanged, struct IndexInfo *info)
{
    refuse();
    return false;
}

static IndexBulkDeleteResult *refuse_delete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats, IndexBulkDeleteCallback callback,
                                            void *state)
{
    refuse();
    return NULL;
}

static IndexBulkDeleteResult *refuse_cleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats)
{
    refuse();
    return NULL;
}

static IndexScanDesc refuse_scan(Relation index, int keys, int orders)
{
    refuse();
    return NULL;
}

static void refuse_cost(struct PlannerInfo *root, struct IndexPath *path, double loops, Cost *start, Cost *total,
                        Selectivity *selectivity, double *correlation, double *pages)
{
    refuse();
}

PG_FUNCTION_INFO_V1(ruvector_attention_handler);
Datum ruvector_attention_handler(PG_FUNCTION_ARGS)
{
    Oid extension;
    char *version = vector_version(&extension);
    PGFunction handler = load_external_function("$libdir/vector", "hnswhandler", true, NULL);
    LOCAL_FCINFO(call, 1);
    InitFunctionCallInfoData(*call, fcinfo->flinfo, 1, InvalidOid, NULL, NULL);
    call->args[0].value = (Datum)0;
    call->args[0].isnull = true;
    const IndexAmRoutine *hnsw = (const IndexAmRoutine *)DatumGetPointer(handler(call));
    IndexAmRoutine *own = makeNode(IndexAmRoutine);
    memcpy(own, hnsw, sizeof *own);
    hnsw_build = hnsw->ambuild;
    hnsw_build_empty = hnsw->ambuildempty;
    own->amoptions = read_options;
    own->ambuild = build;
    own->ambuildempty = build_empty;
    if (!version || strncmp(version, "0.8.", 4)) {
        /* what reads or writes it raises an error; the handler itself does not, so that an index can be dropped */
        own->ambuild = refuse_build;
        own->ambuildempty = refuse_empty;
        own->aminsert = refuse_insert;
        own->ambulkdelete = refuse_delete;
        own->amvacuumcleanup = refuse_cleanup;
        own->ambeginscan = refuse_scan;
        own->amcostestimate = refuse_cost;
    }
    PG_RETURN_POINTER(own);
}

/* Called by the installation script: dumps then restore pgvector first, and it is not dropped under the extension. */
PG_FUNCTION_INFO_V1(ruvector_require_vector);
Datum ruvector_require_vector(PG_FUNCTION_ARGS)
{
    Oid extension;
    if (!creating_extension || !vector_version(&extension))
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("only CREATE EXTENSION calls this function")));
    ObjectAddress self = {.classId = ExtensionRelationId, .objectId = CurrentExtensionObject};
    ObjectAddress other = {.classId = ExtensionRelationId, .objectId = extension};
    recordDependencyOn(&self, &other, DEPENDENCY_NORMAL);
    PG_RETURN_VOID();
}
