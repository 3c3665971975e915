/* report_page.h - the tables of the report's page, each a section; what no log holds has none. */
#ifndef SALF_EXAMPLE_REPORT_PAGE_H
#define SALF_EXAMPLE_REPORT_PAGE_H

#include "report.h"

/* One row a group: scores and costs. */
void write_methods(FILE *out, const report *r);
/* Which class was taken for which, of each group's first run. */
void write_confusions(FILE *out, const report *r);
/* What each log was run with, and on which machine; what differs between logs stands out. */
void write_settings(FILE *out, const report *r);

#endif
