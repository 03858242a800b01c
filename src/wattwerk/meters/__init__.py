"""Meters: what reads power, energy and load. A new one is one file here and one line in ``METERS``."""

from wattwerk.meters.base import Meter
from wattwerk.registry import Registry

METERS: Registry[type[Meter]] = Registry(
    "meters",
    {
        "nvml": "wattwerk.meters.nvml:NvmlMeter",
        "rapl": "wattwerk.meters.rapl:RaplMeter",
        "cpu-model": "wattwerk.meters.cpu_model:CpuModelMeter",
        "host-load": "wattwerk.meters.host_load:HostLoadMeter",
        "jetson": "wattwerk.meters.jetson:JetsonMeter",
        "tegrastats": "wattwerk.meters.tegrastats:TegrastatsMeter",
        "amdgpu": "wattwerk.meters.amdgpu:AmdGpuMeter",
        "apple": "wattwerk.meters.apple:AppleMeter",
        "hwmon": "wattwerk.meters.hwmon:HwmonMeter",
        "battery": "wattwerk.meters.battery:BatteryMeter",
        "hailo": "wattwerk.meters.hailo:HailoMeter",
        "ipmi": "wattwerk.meters.ipmi:IpmiMeter",
        "shelly": "wattwerk.meters.shelly:ShellyMeter",
        "tasmota": "wattwerk.meters.tasmota:TasmotaMeter",
        "redfish": "wattwerk.meters.redfish:RedfishMeter",
        "influx-query": "wattwerk.meters.influx_query:InfluxQueryMeter",
        "prometheus-query": "wattwerk.meters.prometheus_query:PrometheusQueryMeter",
        "mqtt": "wattwerk.meters.mqtt:MqttMeter",
        "snmp": "wattwerk.meters.snmp:SnmpMeter",
        "modbus": "wattwerk.meters.modbus:ModbusMeter",
    },
)

__all__ = ["METERS", "Meter"]
