"""The endpoints: functions of the world and the request, without HTTP."""
