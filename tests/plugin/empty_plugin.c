/* empty_plugin.c - a shared library that is no plugin. */
int salf_test_empty_plugin(void);
int salf_test_empty_plugin(void) {
    return 0;
}
