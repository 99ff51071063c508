/* How the types of attention.def score a pair. Included by csrc only. */
#ifndef RV_CATALOG_H
#define RV_CATALOG_H

typedef enum { DOT, ALIBI, DISTANCE, COSINE, FEATURES } rv_logits;

/* Of a type that exists. */
rv_logits rv_type_logits(int index);

#endif
