#!/usr/bin/python3
"""gst-rtsp-server as a real remote server: /play serves a file once, /record takes one, both with a password if asked.

    rtsp_server.py PORT PLAY_FILE RECORD_FILE [USER PASSWORD]
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

Gst.init(None)
port, play, record, *credentials = sys.argv[1:]
server = GstRtspServer.RTSPServer.new()
server.set_address("127.0.0.1")
server.set_service(port)
mounts = server.get_mount_points()


def factory(launch):
    made = GstRtspServer.RTSPMediaFactory.new()
    made.set_launch(launch)
    if credentials:
        permissions = GstRtspServer.RTSPPermissions.new()
        permissions.add_permission_for_role("user", "media.factory.access", True)
        permissions.add_permission_for_role("user", "media.factory.construct", True)
        made.set_permissions(permissions)
    return made


playing = factory(
    f"( filesrc location={play} ! qtdemux name=d d.video_0 ! queue ! h264parse ! rtph264pay name=pay0 pt=96 "
    "d.audio_0 ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97 )"
)
recording = factory(
    "( rtph264depay name=depay0 ! h264parse ! video/x-h264,stream-format=byte-stream ! "
    f"filesink location={record} buffer-mode=unbuffered async=false "
    "rtpmp4gdepay name=depay1 ! aacparse ! fakesink async=false )"
)
recording.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
mounts.add_factory("/play", playing)
mounts.add_factory("/record", recording)
if credentials:
    user, password = credentials
    auth = GstRtspServer.RTSPAuth.new()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken.new()
    token.set_string("media.factory.role", "user")
    auth.add_digest(user, password, token)
    server.set_auth(auth)
if server.attach(None) == 0:
    sys.exit("cannot listen")
print("ready", flush=True)
GLib.MainLoop().run()
