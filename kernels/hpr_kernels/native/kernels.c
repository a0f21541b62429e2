// All kernels for one instruction set and one type: compiled with -DISA=name -DREAL=float or double (see setup.py)
#define JOIN_(name, isa, type) name##_##isa##_##type
#define JOIN(name, isa, type) JOIN_(name, isa, type)
#define EXPORT(name) JOIN(name, ISA, REAL)
#include "gram.h"
#include "recurrence.h"
#include "products.h"
#include "train.h"
#include "peak.h"
